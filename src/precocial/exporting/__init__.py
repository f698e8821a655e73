"""What was trained here, in the forms of other libraries."""
