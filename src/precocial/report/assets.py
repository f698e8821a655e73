"""Style and script of the page."""

STYLE = """
:root { color-scheme: light dark;
  --page: #f6f5f1; --card: #ffffff; --ink: #1d2830; --muted: #5c6a73; --rule: #dfe2df;
  --grid: #e9ebe8;
  --accent: #1f6fb2; --note: #fff6df; --note-rule: #d99a1c;
  --s0: #1f6fb2; --s1: #c75b12; --s2: #12806a; --s3: #9a4c95; --s4: #8a6d00; --s5: #2a93b5;
  --r0: #7b858c; --r1: #a3764f; --r2: #678a5f; --r3: #8679ad; --r4: #b0697f; --r5: #4f8a8b; }
@media (prefers-color-scheme: dark) { :root {
  --page: #12181c; --card: #1a2227; --ink: #e6eaeb; --muted: #9caab1; --rule: #2e3a41;
  --grid: #29343a;
  --accent: #6fb7ee; --note: #2c2716; --note-rule: #d9a93c;
  --s0: #62b0ee; --s1: #f08c4b; --s2: #4cc3a2; --s3: #d293cd; --s4: #dcbf4a; --s5: #6fd3ea;
  --r0: #9aa6ad; --r1: #c79a73; --r2: #93b58a; --r3: #aa9fd0; --r4: #d394a6; --r5: #7fb8b9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; margin: 48px 0 14px; }
h3 { font-size: 1.02rem; margin: 0; }
p { margin: 0 0 10px; }
a { color: var(--accent); }
code, pre { font: .86em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code { overflow-wrap: anywhere; }
pre { background: var(--page); border: 1px solid var(--rule); border-radius: 6px;
  padding: 10px 12px; margin: 6px 0 12px; overflow-x: auto; }
.sub, figcaption, .small { color: var(--muted); }
.small, figcaption { font-size: .875rem; }
figcaption { margin: 2px 0 0; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 18px 20px; }
.findings { display: grid; gap: 16px; margin: 26px 0 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 265px), 1fr)); }
.finding { border-top: 4px solid var(--c); }
.finding .name { font-weight: 600; }
.finding .big { font-size: 1.55rem; font-weight: 600; font-variant-numeric: tabular-nums;
  margin: 6px 0 2px; line-height: 1.25; }
.finding .arrow { color: var(--muted); font-weight: 400; padding: 0 .15em; }
.finding p { margin: 0; }
.notes { list-style: none; margin: 20px 0 0; padding: 0; }
.notes li { background: var(--note); border-left: 4px solid var(--note-rule); border-radius: 4px;
  padding: 8px 14px; margin: 0 0 8px; }
.table { padding: 14px 12px 6px; margin-bottom: 16px; }
.table p { margin: 0 8px 4px; }
.scroll + p { margin-top: 12px; padding-top: 12px; border-top: 1px solid var(--rule); }
.table ul { margin: 6px 8px 8px; padding-left: 1.2em; }
.scroll { overflow-x: auto; }
table { font-size: .95rem; border-collapse: collapse; width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { padding: 9px 8px; text-align: right; white-space: nowrap; vertical-align: top; }
th { font-size: .82rem; font-weight: 600; color: var(--muted); vertical-align: bottom;
  border-bottom: 1px solid var(--rule); }
tbody tr + tr td, tbody tr + tr th { border-top: 1px solid var(--grid); }
tbody th { color: var(--ink); font-size: 1rem; vertical-align: top; border-bottom: 0; }
th.text, td.text { text-align: left; }
td .ci { display: block; color: var(--muted); font-size: .78rem; }
td.strong { font-weight: 600; } td.strong .ci { font-weight: 400; }
th.reference { font-weight: 400; }
th.reference svg { width: 26px; height: 12px; margin-right: .6em; }
.totals { max-width: 760px; }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; background: var(--c);
  margin-right: .5em; }
.charts { display: grid; gap: 16px; grid-auto-flow: dense;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
figure { margin: 0; display: flex; flex-direction: column; min-width: 0; }
.plot { height: 350px; margin-top: 4px; flex: none; }
.wide { grid-column: 1 / -1; }
.wide .plot { height: 440px; }
.keys { display: flex; flex-wrap: wrap; gap: 2px 4px; margin: 8px 0 0 -8px; padding: 0;
  list-style: none; }
.keys button { font: inherit; font-size: .84rem; color: inherit; background: none; border: 0;
  cursor: pointer;
  padding: 2px 8px; border-radius: 5px; display: flex; align-items: center; gap: 7px; }
.keys button:hover { background: var(--grid); }
.keys button[aria-pressed=false] { opacity: .4; text-decoration: line-through; }
.keys svg { width: 26px; height: 12px; flex: none; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
figure img { max-width: 100%; height: auto; margin: 12px auto; border-radius: 6px;
  background: #fff; }
dl { margin: 0; display: grid; grid-template-columns: max-content 1fr; gap: 8px 22px; }
dt { font-weight: 600; } dd { margin: 0; }
details { margin: 0 0 10px; padding: 12px 20px; }
summary { cursor: pointer; font-weight: 600; }
details > :nth-child(2) { margin-top: 10px; }
.settings { columns: 2 320px; column-gap: 40px; margin: 8px 0 0; padding: 0; list-style: none; }
.settings li { break-inside: avoid; display: flex; justify-content: space-between; gap: 16px;
  border-bottom: 1px solid var(--grid); padding: 3px 0; }
.settings code:last-child { color: var(--muted); text-align: right; }
footer { margin-top: 48px; }
@media (max-width: 640px) { main { padding: 24px 14px 48px; } .card { padding: 14px; }
  h1 { font-size: 1.6rem; }
  dl { grid-template-columns: 1fr; gap: 2px; } dd { margin-bottom: 10px; } }
@media print { body { background: #fff; } .card { break-inside: avoid; } }
"""

SCRIPT = """
const charts = JSON.parse(document.getElementById("charts").textContent);
const still = matchMedia("(pointer: coarse)").matches;
const narrow = matchMedia("(max-width: 640px)");
const merge = (base, over) => {
  for (const [key, value] of Object.entries(over ?? {})) {
    const nested = value && typeof value === "object" && !Array.isArray(value);
    base[key] = nested ? merge(base[key] ?? {}, value) : value;
  }
  return base;
};
const paint = (node, style) => {
  if (typeof node === "string" && node[0] === "@") {
    const [name, alpha] = node.slice(1).split(":");
    const hex = style.getPropertyValue("--" + name).trim();
    const parts = [1, 3, 5].map(k => parseInt(hex.slice(k, k + 2), 16));
    return `rgba(${parts}, ${alpha ?? 1})`;
  }
  if (Array.isArray(node)) return node.map(item => paint(item, style));
  if (node && typeof node === "object")
    return Object.fromEntries(Object.entries(node).map(([key, item]) => [key, paint(item, style)]));
  return node;
};
const axis = () => ({
  gridcolor: "@grid", zerolinecolor: "@rule", linecolor: "@rule", tickcolor: "@rule",
  automargin: true, fixedrange: still, title: {standoff: 10, font: {size: 13}},
});
const draw = () => charts.forEach((chart, index) => {
  const layout = merge({
    margin: {l: 56, r: 14, t: 12, b: 48}, showlegend: false, separators: ". ",
    paper_bgcolor: "rgba(0, 0, 0, 0)", plot_bgcolor: "rgba(0, 0, 0, 0)",
    font: {family: getComputedStyle(document.body).fontFamily, size: 12.5, color: "@ink"},
    hoverlabel: {bgcolor: "@card", bordercolor: "@rule", font: {color: "@ink"}},
    xaxis: axis(), yaxis: axis(),
  }, structuredClone(chart.layout));
  const plot = document.getElementById("plot-" + index);
  const off = new Set([...document.querySelectorAll(`[data-plot="${index}"][aria-pressed=false]`)]
    .map(button => button.dataset.group));
  if (narrow.matches) layout.margin.r = 14;
  const data = chart.data.map(trace => ({...trace,
    visible: !off.has(trace.legendgroup) && !(narrow.matches && trace.mode === "text")}));
  const style = getComputedStyle(document.documentElement);
  const config = {displayModeBar: false, responsive: true};
  Plotly.react(plot, paint(data, style), paint(layout, style), config);
});
document.querySelectorAll(".keys button").forEach(button => button.addEventListener("click", () => {
  button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") === "false");
  draw();
}));
for (const query of [narrow, matchMedia("(prefers-color-scheme: dark)")])
  query.addEventListener("change", draw);
draw();
"""
