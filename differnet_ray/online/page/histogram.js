// Where a score lies among those of good images that the model has not seen.

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [420, 220, 8, 412, 62, 196];
const SPREAD = 3; // widths of the histogram from which the axis is compressed
const APART = 44; // between ticks, about
const ROOM = 150; // that a label takes
const CROWDED = 30; // between ticks, at least

/** Draws a histogram `{edges, counts}` with the thresholds and the score; returns what to say of it. */
export function drawHistogram(svg, { edges, counts }, { score, threshold, review }) {
  const [first, last] = [edges[0], edges.at(-1)];
  const [low, high] = [Math.min(first, score, review), Math.max(last, score, threshold)];
  const width = last - first || Math.abs(last) || 1;
  const spread = high - low > SPREAD * width;
  // Beside good images the compressed axis is logarithmic, among them nearly linear: scores of any sign have a place on it.
  const [bend, unbend] = spread
    ? [(value) => Math.asinh((2 * (value - first)) / width), (at) => first + (width * Math.sinh(at)) / 2]
    : [(value) => value, (at) => at];
  const [start, end] = [bend(low), bend(high)];
  const room = (end - start || 1) * 0.03;
  const x = (value) => LEFT + ((RIGHT - LEFT) * (bend(value) - start + room)) / (end - start + 2 * room || 1);
  const back = (at) => unbend(start - room + ((at - LEFT) / (RIGHT - LEFT)) * (end - start + 2 * room));

  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.replaceChildren();
  const most = Math.max(...counts);
  counts.forEach((count, i) => {
    if (!count) return;
    const height = ((BOTTOM - TOP) * count) / most;
    const [from, to] = [x(edges[i]), x(edges[i + 1])];
    add(svg, "rect", { class: "bar", x: from, y: BOTTOM - height, width: Math.max(to - from - 0.6, 1), height });
  });
  add(svg, "line", { class: "axis", x1: LEFT, x2: RIGHT, y1: BOTTOM, y2: BOTTOM });
  for (const value of ticks(x, back)) {
    add(svg, "line", { class: "axis", x1: x(value), x2: x(value), y1: BOTTOM, y2: BOTTOM + 4 });
    label(svg, x(value), HEIGHT - 6, number(value), "tick", "middle");
  }
  const marks = [["review", review, 48, "review from"], ["threshold", threshold, 31, "anomalous from"], ["score", score, 14, "this image"]];
  for (const [kind, value, y] of marks) add(svg, "line", { class: `mark ${kind}`, x1: x(value), x2: x(value), y1: y - 10, y2: BOTTOM });
  for (const [kind, value, y, text] of marks) {
    const left = x(value) > ROOM;
    label(svg, x(value) + (left ? -5 : 5), y, `${text} ${number(value)}`, kind, left ? "end" : "start");
  }
  add(svg, "path", { class: "score", d: `M${(x(score) - 6).toFixed(1)},${BOTTOM + 9} h12 l-6,-9 z` });
  const n = counts.reduce((sum, count) => sum + count, 0);
  svg.setAttribute("aria-label", `Scores of ${n} good images, from ${number(first)} to ${number(last)}; review from ${number(review)}, ` +
    `anomalous from ${number(threshold)}, this image ${number(score)}.`);
  return `Scores of ${n} good images that the model was not fitted on, and of this one${spread ? "; the axis is logarithmic where scores spread" : ""}.`;
}

/** Four digits, without an exponent where people would not write one. */
export function number(value) {
  return String(Number(value.toPrecision(4)));
}

/** Round values, evenly spread on the axis whatever its scale. */
function ticks(x, back) {
  const found = [];
  for (let at = LEFT + APART / 2; at < RIGHT; at += APART) {
    const step = back(at + APART / 2) - back(at - APART / 2);
    const power = 10 ** Math.floor(Math.log10(step));
    const unit = power * [1, 2, 5, 10].find((digit) => digit * power >= step * 0.999);
    const value = Number((Math.round(back(at) / unit) * unit).toPrecision(12));
    const place = x(value);
    if (place > LEFT && place < RIGHT && found.every((other) => Math.abs(x(other) - place) > CROWDED)) found.push(value);
  }
  return found;
}

function label(svg, x, y, text, kind, anchor) {
  add(svg, "text", { class: kind, x, y, "text-anchor": anchor }).textContent = text;
}

function add(svg, name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, typeof value === "number" ? value.toFixed(1) : value);
  svg.append(made);
  return made;
}
