"""The page's charts."""
