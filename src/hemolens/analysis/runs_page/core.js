// What the page knows, what the reader has chosen, and small tools for the parts that follow.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = DATA.runs;
// Equal lists of two runs are one value.
const lists = new Map();
for (const { config } of RUNS) {
  for (const [key, value] of Object.entries(config)) {
    if (typeof value !== "object" || value === null) continue;
    const text = JSON.stringify(value);
    if (!lists.has(text)) lists.set(text, value);
    config[key] = lists.get(text);
  }
}
const WORDS = { finished: "✓ finished", failed: "✕ failed", running: "▸ running", interrupted: "‖ interrupted", pruned: "✂ pruned" };
const $ = id => document.getElementById(id);

// Elements. Text is only ever set as text, so that no name of a run can become markup.
function make(element, options, children) {
  for (const [name, value] of Object.entries(options || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name === "style") Object.entries(value).forEach(([key, set]) => element.style.setProperty(key, set));
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter(child => child !== null && child !== undefined && child !== false));
  return element;
}
const el = (tag, options, ...children) => make(document.createElement(tag), options, children);
const sv = (tag, options, ...children) => make(document.createElementNS("http://www.w3.org/2000/svg", tag), options, children);

// Not Math.min(...values): of a hundred thousand values that is too many arguments.
const least = values => values.reduce((a, b) => (a < b ? a : b), Infinity);
const greatest = values => values.reduce((a, b) => (a > b ? a : b), -Infinity);
// What is missing, not a number or infinite comes last, whichever way one sorts.
const absent = value => value === null || value === undefined || value === "";
const noNumber = value => ["nan", "inf", "-inf"].includes(value);
function order(a, b, sign) {
  if (absent(a) || absent(b)) return absent(a) - absent(b);
  if (noNumber(a) || noNumber(b)) return noNumber(a) - noNumber(b);
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * plain(a).localeCompare(plain(b), "en", { numeric: true });
}
const plain = value => typeof value === "object" ? JSON.stringify(value) : String(value);
// Runs stand in the order of what was varied; a run's number is its place in it.
RUNS.sort((a, b) => DATA.axes.reduce((found, axis) => found || order(a.config[axis.key], b.config[axis.key], 1), 0) || order(a.folder, b.folder, 1));
RUNS.forEach((run, place) => { run.number = place; });

// Columns: facts of the run, config values that differ, metrics.
const COLUMNS = new Map();
const RUN_FACTS = { wall_seconds: "wall time", cpu_seconds: "CPU time" };
for (const key of Object.keys(RUNS[0].about)) {
  COLUMNS.set(key, { key, label: RUN_FACTS[key] || key, kind: "run", get: run => run.about[key] });
}
for (const { key } of DATA.axes) {
  const name = COLUMNS.has(key) ? `config ${key}` : key;
  COLUMNS.set(name, { key: name, config: key, label: key, kind: "config", get: run => run.config[key] });
}
for (const key of DATA.metrics) {
  const name = COLUMNS.has(key) ? `metric ${key}` : key;
  COLUMNS.set(name, { key: name, label: key, kind: "metric", get: run => run.metrics[key], lower: DATA.lower.includes(key) });
}
for (const column of COLUMNS.values()) {
  const values = RUNS.map(column.get).filter(value => !absent(value));
  const numbers = values.filter(value => typeof value === "number");
  column.filled = values.length;
  column.numeric = numbers.length > 0 && (column.kind === "metric" || numbers.length === values.length);
  column.seconds = column.key.endsWith("_seconds") || /(^|\/)\w*seconds$/.test(column.key);
  const most = Math.max(...numbers.map(Math.abs), 0);
  column.whole = numbers.every(Number.isInteger);
  column.decimals = most > 0 ? Math.min(6, Math.max(0, 3 - Math.floor(Math.log10(most)))) : 4;
}
const number = (run, key) => {
  const value = COLUMNS.get(key) && COLUMNS.get(key).get(run);
  return typeof value === "number" ? value : null;
};

// Numbers as people read them.
const minus = text => String(text).replace(/-/g, "−");
const grouped = value => Math.abs(value) >= 1e5 ? value.toLocaleString("en").replace(/,/g, "\u202f") : String(value);
function duration(seconds) {
  if (seconds < 10) return `${+seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(whole / 3600)} h ${String(Math.floor(whole % 3600 / 60)).padStart(2, "0")} min`;
}
function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e6) return minus(value.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e"));
  return minus(grouped(+value.toPrecision(4)));
}
function shown(value, column) {
  if (absent(value)) return "–";
  if (typeof value === "object") return JSON.stringify(value);
  if (typeof value !== "number") return column && column.key === "state" ? WORDS[value] || value : String(value);
  if (column && column.seconds) return duration(value);
  if (!column || column.kind === "config") return minus(String(value));
  if (column.whole) return minus(grouped(value));
  if (value !== 0 && Math.abs(value) < 0.5 * 10 ** -column.decimals) return minus(value.toPrecision(2));
  return minus(value.toFixed(column.decimals));
}
const mean = values => values.reduce((sum, value) => sum + value, 0) / values.length;
const deviation = values => {
  const middle = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1));
};

// What the reader has chosen; the address holds what differs from the defaults, so that a view can be kept or sent.
const firstFree = (...keys) => keys.find(key => key && COLUMNS.has(key)) || [...COLUMNS.keys()][0];
const curveNames = [...new Set(RUNS.flatMap(run => Object.keys(run.curves)))].sort();
const firstCurve = () => {
  const stem = (DATA.main || "").split("/")[1];
  return [`val/${stem}`, "train/loss", "val/loss", "train/loss_bar"].find(name => curveNames.includes(name)) || curveNames[0] || "";
};
// Axes to start with: settings that differ among the runs that came to a score, seeds last.
const scored = RUNS.filter(run => !DATA.main || !absent(run.metrics[DATA.main]));
const swept = [...DATA.axes].sort((a, b) => a.seed - b.seed).map(axis => axis.key)
  .filter(key => new Set(scored.map(run => plain(run.config[key] ?? ""))).size > 1);
const DEFAULTS = {
  filter: "", sort: DATA.main ? `${DATA.main}:${DATA.lower.includes(DATA.main) ? "up" : "down"}` : "state:up",
  cols: DATA.shown.filter(key => COLUMNS.has(key)).join(","), group: "",
  metric: DATA.main || "", sense: "",
  x: firstFree(swept[0], "epochs"), y: firstFree(DATA.main, "wall_seconds"), color: firstFree(swept[1], swept[0], "state"),
  xscale: "", yscale: "", means: "", curve: firstCurve(), cx: "step", clog: "", smooth: "0",
  a: "", b: "", all: "", sel: "", figure: "",
};
const state = { ...DEFAULTS };
const selected = new Set();
const hidden = new Set(); // runs whose curves are switched off

const escapeHash = text => encodeURIComponent(text).replace(/%2F/g, "/").replace(/%2C/g, ",").replace(/%3A/g, ":");
function readHash() {
  Object.assign(state, DEFAULTS);
  for (const part of location.hash.slice(1).split("&")) {
    const [key, ...rest] = part.split("=");
    if (!(key in DEFAULTS)) continue;
    try { state[key] = decodeURIComponent(rest.join("=")); } catch { /* a broken address: the default stays */ }
  }
  for (const key of ["x", "y"]) if (!COLUMNS.has(state[key])) state[key] = DEFAULTS[key];
  if (state.color && !COLUMNS.has(state.color)) state.color = DEFAULTS.color;
  if (!curveNames.includes(state.curve)) state.curve = DEFAULTS.curve;
  if (state.metric && !COLUMNS.has(state.metric)) state.metric = DEFAULTS.metric;
  selected.clear();
  const wanted = new Set(state.sel.split(",").filter(Boolean));
  RUNS.filter(run => wanted.has(run.folder) || wanted.has(String(run.number))).forEach(run => selected.add(run));
}
function writeHash() {
  // folders may hold commas; numbers are as good within one page
  state.sel = RUNS.filter(run => selected.has(run)).map(run => run.number).join(",");
  const parts = Object.keys(DEFAULTS).filter(key => state[key] !== DEFAULTS[key]);
  const hash = parts.map(key => `${key}=${escapeHash(state[key])}`).join("&");
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
}

// The filter: words that must occur, and key=value, key>value and the like for columns.
function parseFilter(text) {
  return (text.match(/(?:[^\s"]|"[^"]*")+/g) || []).map(word => {
    const term = word.replace(/"/g, "");
    const match = term.match(/^([^=<>!]+)(!=|<=|>=|=|<|>)(.+)$/);
    const column = match && (findColumn(match[1]) || findConfig(match[1]));
    if (!column) return run => run.text.includes(term.toLowerCase());
    const [, , operator, wanted] = match;
    return run => compare(column.get(run), operator, wanted);
  });
}
function findColumn(name) {
  const low = name.toLowerCase();
  const keys = [...COLUMNS.keys()];
  const key = keys.find(key => key.toLowerCase() === low) || keys.find(key => /[./]/.test(key) && key.toLowerCase().split(/[./]/).pop() === low)
    || keys.find(key => key.toLowerCase().endsWith(`.${low}`) || key.toLowerCase().endsWith(`/${low}`));
  return key && COLUMNS.get(key);
}
// A config key that is no column: all runs share it, or it goes with another.
function findConfig(name) {
  const low = name.toLowerCase();
  const keys = [...new Set([...Object.keys(DATA.common), ...RUNS.flatMap(run => Object.keys(run.config))])];
  const key = keys.find(key => key.toLowerCase() === low) || keys.find(key => key.toLowerCase().endsWith(`.${low}`));
  return key && { get: run => run.config[key] ?? DATA.common[key] };
}
function compare(value, operator, wanted) {
  const missing = absent(value);
  if (operator === "=" || operator === "!=") {
    const same = !missing && (typeof value === "number" ? value === Number(wanted) : plain(value).toLowerCase() === wanted.toLowerCase());
    return same === (operator === "=");
  }
  if (missing || typeof value !== "number") return false;
  const limit = Number(wanted);
  return { "<": value < limit, ">": value > limit, "<=": value <= limit, ">=": value >= limit }[operator];
}
for (const run of RUNS) {
  const config = DATA.axes.map(axis => `${axis.key}=${plain(run.config[axis.key] ?? "")}`);
  run.text = [run.label, run.folder, run.about.state, run.about.job, run.about.error, run.about.device, ...config].join(" ").toLowerCase();
}
function shownRuns() {
  const terms = parseFilter(state.filter);
  return RUNS.filter(run => terms.every(term => term(run)));
}

// Colours: of eight, told apart with any colour vision; then dashes and shapes tell on.
const DASHES = ["", "7 4", "2 3", "9 3 2 3"];
const color = place => `var(--c${place % 8})`;
function lineStyles(runs) {
  return new Map(runs.map((run, place) => [run, { color: color(place), dash: DASHES[Math.floor(place / 8) % 4] }]));
}
// The runs that curves and pictures are of: those selected, or all that the filter lets through.
const activeRuns = () => { const runs = shownRuns(); return selected.size ? RUNS.filter(run => selected.has(run)) : runs; };
const seeds = new Set(DATA.axes.filter(axis => axis.seed).flatMap(axis => [axis.key, ...axis.also]));
const groupKey = run => JSON.stringify([run.about.job, ...DATA.axes.filter(axis => !axis.seed).map(axis => run.config[axis.key] ?? null)]);
const groupLabel = run => DATA.axes.filter(axis => !axis.seed && !absent(run.config[axis.key]) && (axis.asked || !DATA.axes.some(other => other.asked && !other.seed)))
  .slice(0, 4).map(axis => `${axis.key.split(".").pop()}=${plain(run.config[axis.key])}`).join(" ") || "all seeds";
function groupsOf(runs) {
  const groups = new Map();
  for (const run of runs) {
    const key = groupKey(run);
    if (!groups.has(key)) groups.set(key, { key, label: groupLabel(run), runs: [] });
    groups.get(key).runs.push(run);
  }
  return [...groups.values()];
}
const lowerIsBetter = () => state.sense ? state.sense === "low" : Boolean(COLUMNS.get(state.metric) && COLUMNS.get(state.metric).lower);
function bestRun(runs) {
  const ranked = runs.filter(run => number(run, state.metric) !== null);
  const sign = lowerIsBetter() ? 1 : -1;
  return ranked.sort((a, b) => sign * (number(a, state.metric) - number(b, state.metric)))[0] || null;
}
