// Axes, ticks and the tip that follows the pointer or the focus: what scatter and curves share.

const CHART = { top: 14, right: 18, bottom: 48, left: 66 };
const tickText = value => short(value);

// A scale: place(value) in 0..1, ticks, and whether it can show a value at all.
function linearScale(values) {
  let [low, high] = [least(values), greatest(values)];
  const reach = Math.max(Math.abs(low), Math.abs(high));
  if (!(high - low > 1e-9 * reach)) { const room = reach * 0.1 || 1; low -= room; high += room; } // apart by rounding at most
  const room = (high - low) * 0.04;
  low -= low === 0 ? 0 : room; high += room;
  const raw = (high - low) / 5;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = size * [1, 2, 5, 10].find(factor => factor * size >= raw);
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) ticks.push({ at: k * step, text: tickText(+(k * step).toPrecision(12)) });
  return { place: value => (value - low) / (high - low), ticks, shows: () => true };
}
function logScale(values) {
  const logs = values.filter(value => value > 0).map(Math.log10);
  if (!logs.length) return linearScale(values);
  let [low, high] = [least(logs), greatest(logs)];
  const room = Math.max((high - low) * 0.05, 0.05);
  low -= room; high += room;
  const ticks = [];
  const factors = high - low > 3.2 ? [1] : high - low > 1.2 ? [1, 3] : [1, 2, 5];
  const skip = Math.max(1, Math.ceil((high - low) / 7));
  for (let power = Math.floor(low); power <= Math.ceil(high); power++) {
    if (power % skip) continue;
    for (const factor of factors) {
      const at = factor * 10 ** power;
      if (Math.log10(at) >= low && Math.log10(at) <= high) ticks.push({ at, text: tickText(+at.toPrecision(3)) });
    }
  }
  if (ticks.length < 2) { // within one decade, between two of its factors
    ticks.splice(0, ticks.length, ...linearScale([10 ** low, 10 ** high]).ticks.filter(({ at }) => at > 0 && Math.log10(at) >= low && Math.log10(at) <= high));
  }
  return { place: value => (Math.log10(value) - low) / (high - low), ticks, shows: value => value > 0 };
}
function categoryScale(values) {
  const names = [...new Set(values)].sort((a, b) => order(a, b, 1));
  const every = Math.ceil(names.length / 14);
  const ticks = names.map((at, k) => ({ at, text: k % every ? "" : shown(at).slice(0, 22) }));
  return { place: value => (names.indexOf(value) + 0.5) / names.length, ticks, shows: value => names.includes(value), names };
}
const inReach = values => values.filter(value => typeof value === "number" && Number.isFinite(value));
function autoScale(column) {
  const values = inReach(RUNS.map(column.get));
  if (!column.numeric) return "categories";
  const ratio = Math.max(...values) / Math.min(...values);
  if (column.kind === "config" && seeds.has(column.config)) return "categories";
  return Math.min(...values) > 0 && ratio >= (column.kind === "config" ? 9 : 1000) ? "log" : "linear";
}
// Few settings, as a sweep has them, are ticks themselves.
function withOwnTicks(scale, column, values) {
  const own = [...new Set(values)].sort((a, b) => a - b);
  return column.kind !== "config" || own.length > 8 || !own.every(scale.shows) ? scale
    : { ...scale, ticks: own.map(at => ({ at, text: minus(String(at)) })) };
}
const scaleFor = (kind, values) => kind === "categories" ? categoryScale(values) : kind === "log" ? logScale(inReach(values)) : linearScale(inReach(values));

// The frame of a chart: gridlines, ticks, names of the axes.
function frame(svg, width, height, xScale, yScale, xName, yName) {
  const inner = { x: CHART.left, y: CHART.top, width: width - CHART.left - CHART.right, height: height - CHART.top - CHART.bottom };
  const px = value => inner.x + xScale.place(value) * inner.width;
  const py = value => inner.y + (1 - yScale.place(value)) * inner.height;
  const bottom = inner.y + inner.height;
  const wide = xScale.names && xScale.ticks.some(tick => tick.text.length > 12) && inner.width / xScale.ticks.length < 110;
  let free = -Infinity; // a tick's text is left out where it would touch the one before
  const texts = xScale.ticks.map(tick => {
    const text = wide ? tick.text.slice(0, Math.max(4, Math.floor(inner.width / xScale.ticks.length / 7))) : tick.text;
    const half = text.length * 3.9;
    if (px(tick.at) - half < free + 6) return null;
    free = px(tick.at) + half;
    return sv("text", { class: "tick", x: px(tick.at), y: bottom + 18, "text-anchor": "middle", text });
  });
  svg.append(
    sv("g", { class: "grid", "aria-hidden": "true" },
      yScale.ticks.map(tick => sv("line", { x1: inner.x, x2: inner.x + inner.width, y1: py(tick.at), y2: py(tick.at) })),
      xScale.ticks.map(tick => sv("line", { x1: px(tick.at), x2: px(tick.at), y1: inner.y, y2: bottom })),
      sv("rect", { x: inner.x, y: inner.y, width: inner.width, height: inner.height })),
    sv("g", { "aria-hidden": "true" }, texts,
      yScale.ticks.map(tick => sv("text", { class: "tick", x: inner.x - 8, y: py(tick.at) + 4, "text-anchor": "end", text: yScale.names ? tick.text.slice(0, 9) : tick.text })),
      sv("text", { class: "axis", x: inner.x + inner.width / 2, y: height - 8, "text-anchor": "middle", text: xName }),
      sv("text", { class: "axis", x: 0, y: 0, transform: `translate(14 ${inner.y + inner.height / 2}) rotate(-90)`, "text-anchor": "middle", text: yName })));
  return { px, py, inner };
}
const chartWidth = host => Math.max(280, Math.floor(host.clientWidth));
const chartHeight = width => Math.round(Math.min(440, Math.max(280, width * 0.56)));

// The tip. Escape hides it; it never takes the pointer.
function showTip(lines, x, y) {
  const tip = $("tip");
  tip.replaceChildren(...lines.map((line, k) => el(k ? "div" : "strong", { text: line })));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.min(Math.max(4, x + 14), innerWidth - box.width - 4);
  const top = y + 14 + box.height > innerHeight ? y - box.height - 10 : y + 14;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}
const hideTip = () => { $("tip").hidden = true; };

function fill(select, entries, value) {
  const groups = new Map();
  for (const [key, text, group] of entries) {
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(el("option", { value: key, text, selected: key === value }));
  }
  select.replaceChildren(...[...groups].flatMap(([group, options]) => group ? [el("optgroup", { label: group }, options)] : options));
  select.value = value;
}
