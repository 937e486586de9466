// Draws the planes and the free scatter of a comparison as inline SVG, from the data in its <script data-chart>.
// `rdt.report.scatter` writes the data: scores[name] and diffs[name] of a point are [mean, lower bound, upper bound].
const LEFT = 68, RIGHT = 14, TOP = 14, BOTTOM = 44;
const safe = (text) => String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" }[c]));
const brief = (x) => (x === 0 ? "0" : Number(x.toPrecision(3)).toString());
const signed = (x) => (x > 0 ? "+" : "") + brief(x);
const SHAPES = {  // paths of about equal area around (0, 0)
  circle: "M6 0A6 6 0 1 1 -6 0A6 6 0 1 1 6 0Z", square: "M-5.4 -5.4H5.4V5.4H-5.4Z", triangle: "M0 -7.2L6.8 5H-6.8Z", down: "M0 7.2L6.8 -5H-6.8Z",
  pentagon: "M0 -6.8L6.5 -2.1L4 5.5H-4L-6.5 -2.1Z", star: "M0 -8L2.1 -2.7L7.8 -2.4L3.4 1.2L4.9 6.7L0 3.6L-4.9 6.7L-3.4 1.2L-7.8 -2.4L-2.1 -2.7Z",
  plus: "M-2.4 -7H2.4V-2.4H7V2.4H2.4V7H-2.4V2.4H-7V-2.4H-2.4Z", cross: "M0 -3.2L3.4 -6.6L6.6 -3.4L3.2 0L6.6 3.4L3.4 6.6L0 3.2L-3.4 6.6L-6.6 3.4L-3.2 0L-6.6 -3.4L-3.4 -6.6Z",
  diamond: "M0 -7.5L7.5 0L0 7.5L-7.5 0Z" };

function ticks(lo, hi, count) {
  const raw = (hi - lo) / count, unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * [1, 2, 2.5, 5, 10].find((k) => k * unit >= raw * 0.999);
  const out = [];
  for (let k = Math.ceil(lo / step); k * step <= hi; k++) out.push(k * step);
  return out;
}

// Returns where a point lies, or undefined: its paired difference to the base unless absolute values are asked for.
const at = (p, name, absolute) => (absolute ? p.scores : p.diffs)[name];

function scale(points, name, absolute, from, to) {
  const bounds = points.flatMap((p) => at(p, name, absolute).slice(1, 3));
  let lo = Math.min(...bounds), hi = Math.max(...bounds);
  const pad = (hi - lo || Math.abs(hi) || 1) * 0.14;
  lo -= pad; hi += pad;
  return { lo, hi, at: (x) => from + ((x - lo) / (hi - lo)) * (to - from) };
}

function axes(view, sx, sy) {
  const { W, H, x, y, title } = view;
  const across = ticks(sx.lo, sx.hi, Math.max(3, W / 85)).map((t) => `<line stroke="var(--line)" x1="${sx.at(t)}" x2="${sx.at(t)}" y1="${TOP}" y2="${H - BOTTOM}"/>
    <text x="${sx.at(t)}" y="${H - BOTTOM + 17}" text-anchor="middle">${brief(t)}</text>`);
  const up = ticks(sy.lo, sy.hi, Math.max(3, H / 70)).map((t) => `<line stroke="var(--line)" x1="${LEFT}" x2="${W - RIGHT}" y1="${sy.at(t)}" y2="${sy.at(t)}"/>
    <text x="${LEFT - 7}" y="${sy.at(t) + 4}" text-anchor="end">${brief(t)}</text>`);
  const middle = (TOP + H - BOTTOM) / 2;
  const names = `<text class="name" x="${(LEFT + W - RIGHT) / 2}" y="${H - 8}" text-anchor="middle">${safe(title(x))} →</text>
    <text class="name" x="13" y="${middle}" text-anchor="middle" transform="rotate(-90 13 ${middle})">${safe(title(y))} →</text>`;
  return across.join("") + up.join("") + names;
}

// Draws the lines through the base and writes into the corners what the quadrants mean.
function quadrants(view, sx, sy) {
  const { W, H, names } = view, cx = sx.at(0), cy = sy.at(0);
  if (!names) return "";
  const corners = [[W - RIGHT - 5, TOP + 13, "end"], [LEFT + 5, TOP + 13, "start"], [W - RIGHT - 5, H - BOTTOM - 6, "end"], [LEFT + 5, H - BOTTOM - 6, "start"]];
  const words = corners.map(([u, v, side], k) => `<text class="quadrant" x="${u}" y="${v}" text-anchor="${side}">${safe(names[k])}</text>`);
  return `<path stroke="var(--quiet)" d="M${cx} ${TOP}V${H - BOTTOM}M${LEFT} ${cy}H${W - RIGHT}"/>${words.join("")}`;
}

function limits(data, view, sx, sy) {
  const { x, y, W, H, absolute, clip } = view, base = data.points[0].scores;
  const curves = data.curves.filter((c) => (c.x === x && c.y === y) || (c.x === y && c.y === x));
  const shift = (p) => (absolute ? p : [p[0] - base[x][0], p[1] - base[y][0]]);
  let seen = false;
  const lines = curves.map((c) => {
    const points = c.points.map((p) => shift(c.x === x ? p : [p[1], p[0]]));
    seen ||= points.some((p) => p[0] > sx.lo && p[0] < sx.hi && p[1] > sy.lo && p[1] < sy.hi);
    return `<polyline points="${points.map((p) => `${sx.at(p[0])},${sy.at(p[1])}`).join(" ")}" fill="none" stroke="var(--quiet)" stroke-width="1.5" stroke-dasharray="${c.dash}" clip-path="url(#${clip})"/>`;
  });
  const hint = curves.length && !seen ? `<text class="quadrant" x="${W - RIGHT - 5}" y="${TOP + 31}" text-anchor="end">limit: outside this frame</text>` : "";
  return lines.join("") + hint;
}

// Returns, by method, its points and those of them and the base that none of these dominates. Returns nothing if an
// axis has no better direction.
function fronts(points, better, { x, y, absolute }) {
  const a = better[x], b = better[y], means = points.filter((p) => p.kind === "mean");
  const beats = (q, p) => {
    const over = a * (at(q, x, absolute)[0] - at(p, x, absolute)[0]), up = b * (at(q, y, absolute)[0] - at(p, y, absolute)[0]);
    return over >= 0 && up >= 0 && (over > 0 || up > 0);
  };
  return a && b ? [...new Set(means.map((p) => p.method))].map((method) => {
    const own = points.filter((p) => p.kind === "base" || (p.kind === "mean" && p.method === method));
    const best = own.filter((p) => !own.some((q) => beats(q, p))).sort((p, q) => at(p, x, absolute)[0] - at(q, x, absolute)[0]);
    return { method, own, best, colour: own.at(-1).colour };
  }) : [];
}

function mark(p, index, hollow, view, sx, sy) {
  const a = at(p, view.x, view.absolute), b = at(p, view.y, view.absolute), cx = sx.at(a[0]), cy = sy.at(b[0]);
  const hue = p.kind === "base" ? "var(--ink)" : p.colour, seed = p.kind === "seed";
  const bars = seed ? "" : `<path d="M${sx.at(a[1])} ${cy}H${sx.at(a[2])}M${cx} ${sy.at(b[1])}V${sy.at(b[2])}" stroke="${hue}" stroke-width="1.4" stroke-opacity="${view.crowded ? 0.3 : 1}"/>`;
  const face = hollow.has(p) ? `fill="var(--paper)" stroke="${hue}" stroke-width="1.7"` : `fill="${hue}" stroke="var(--paper)"`;
  const size = seed ? 0.55 : 1, label = `${p.name}: ${view.title(view.x)} ${brief(a[0])}, ${view.title(view.y)} ${brief(b[0])}`;
  return `<g data-tip="${index}" role="button" tabindex="-1" aria-label="${safe(label)}">${bars}<circle class="hit" cx="${cx}" cy="${cy}" r="13"/>
    <path class="dot" transform="translate(${cx} ${cy}) scale(${size})" d="${SHAPES[p.shape]}" ${face} fill-opacity="${seed ? 0.6 : 1}"/></g>`;
}

// Writes the settings beside their points, where there is room.
function labels(points, view, sx, sy) {
  const spots = points.map((p) => [sx.at(at(p, view.x, view.absolute)[0]), sy.at(at(p, view.y, view.absolute)[0])]);
  const taken = spots.map(([u, v]) => [u - 8, v - 8, u + 8, v + 8]), out = [];
  const apart = (a) => taken.every((b) => a[0] >= b[2] || b[0] >= a[2] || a[1] >= b[3] || b[1] >= a[3]);
  points.forEach((p, k) => {
    const words = p.kind === "mean" ? `${p.setting}${p.hacked ? " (hacked)" : ""}`.trim() : "", wide = words.length * 6.2, [u, v] = spots[k];
    const places = [[u + 10, v - 4], [u + 10, v + 14], [u - 10 - wide, v - 4], [u - 10 - wide, v + 14]];
    const found = words && places.map(([l, b]) => [l, b - 11, l + wide, b + 2]).find((a) => a[0] > LEFT && a[2] < view.W - RIGHT && a[1] > TOP && a[3] < view.H - BOTTOM && apart(a));
    if (!found) return;
    taken.push(found);
    out.push(`<text class="label" x="${found[0]}" y="${found[3] - 2}">${safe(words)}</text>`);
  });
  return out.join("");
}

// Draws the paths of the trainings from the base on, as differences.
function trails(data, { x, y, absolute, clip }, off, sx, sy) {
  const shown = absolute ? [] : data.trails.filter((t) => t.gains[x] && t.gains[y] && !off.has(t.method));
  return shown.map((t) => {
    const spots = t.gains[x].map((u, k) => [sx.at(u), sy.at(t.gains[y][k])]);
    const dots = spots.slice(1).map(([u, v]) => `<circle cx="${u}" cy="${v}" r="1.8"/>`).join("");
    return `<g class="trail" clip-path="url(#${clip})" fill="${t.colour}" opacity=".5"><polyline points="${spots.join(" ")}" fill="none" stroke="${t.colour}"/>${dots}</g>`;
  }).join("");
}

// Returns the SVG of a view and how many of its points have both scores.
function picture(data, view, off) {
  const { x, y, W, H, absolute } = view;
  const points = data.points.filter((p) => at(p, x, absolute) && at(p, y, absolute) && !off.has(p.method));
  if (!points.length) return "<p class='quiet'>No point has both of these scores.</p>";
  view.crowded = points.length > 80;
  const sx = scale(points, x, absolute, LEFT, W - RIGHT), sy = scale(points, y, absolute, H - BOTTOM, TOP);
  const found = fronts(points, data.better, view), hollow = new Set(found.flatMap((f) => f.own.filter((p) => p.kind === "mean" && !f.best.includes(p))));
  const chained = data.rewards.includes(x) && data.rewards.includes(y) ? [] : found;  // of two rewards there is no front to pay for
  const lines = chained.map((f) => `<g data-front="${safe(f.method)}"><polyline points="${f.best.map((p) => `${sx.at(at(p, x, absolute)[0])},${sy.at(at(p, y, absolute)[0])}`).join(" ")}" fill="none" stroke="${f.colour}" stroke-width="1.6" opacity=".55"/></g>`).join("");
  const clip = `<clipPath id="${view.clip}"><rect x="${LEFT}" y="${TOP}" width="${W - LEFT - RIGHT}" height="${H - TOP - BOTTOM}"/></clipPath>`;
  const order = { seed: 0, mean: 1, base: 2 }, drawn = [...points].sort((p, q) => order[p.kind] - order[q.kind]);
  const marks = drawn.map((p) => mark(p, data.points.indexOf(p), hollow, view, sx, sy)).join("");
  const name = `${view.title(y)} against ${view.title(x)}, ${points.length} points`;
  return `<svg width="${W}" height="${H}" viewBox="0 0 ${W} ${H}" role="group" aria-label="${safe(name)}">${clip}${axes(view, sx, sy)}${quadrants(view, sx, sy)}${limits(data, view, sx, sy)}${trails(data, view, off, sx, sy)}${lines}${marks}${labels(drawn, view, sx, sy)}</svg>`;
}
