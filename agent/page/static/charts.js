// Small line charts of the last minutes, drawn by hand: one path a series, newest at the right.

const SVG = "http://www.w3.org/2000/svg";
const SPANS = [60, 120, 300, 600];
const WIDE = 600, HIGH = 100;

function make(tag, parent, name = "", text = "") {
  const node = tag === "svg" || parent.namespaceURI === SVG
    ? document.createElementNS(SVG, tag) : document.createElement(tag);
  if (name) node.setAttribute("class", name);
  if (text) node.textContent = text;
  parent.append(node);
  return node;
}

// The least round number that holds `most`.
function ceiling(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 1.5, 2, 3, 5, 7.5, 10].map((step) => step * power).find((step) => step >= most);
}

export class Chart {
  // `columns` say which entries of a sample are drawn; `least` is the lowest top of the scale.
  constructor(panel, columns, unit, least) {
    Object.assign(this, { panel, columns, unit, least });
    this.value = make("div", panel, "value");
    const plot = make("div", panel, "plot");
    const svg = make("svg", plot);
    svg.setAttribute("viewBox", `0 0 ${WIDE} ${HIGH}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    for (const y of [0, HIGH]) {
      const line = make("line", svg);
      for (const [key, value] of Object.entries({ x1: 0, x2: WIDE, y1: y, y2: y })) line.setAttribute(key, value);
    }
    this.area = columns.length === 1 ? make("path", svg, "area") : null;
    this.paths = columns.map((_, i) => make("path", svg, i ? "second" : "first"));
    this.top = make("span", plot, "top");
    this.from = make("span", panel, "from");
    make("span", panel, "to", "now");
  }

  // `samples` are lines of /now.json; a gap of more than three seconds, or an unknown value, breaks the line.
  draw(samples) {
    const end = samples.length ? samples[samples.length - 1][0] : 0;
    const age = samples.length ? end - samples[0][0] : 0;
    const span = SPANS.find((each) => each >= age) ?? SPANS[SPANS.length - 1];
    const values = samples.flatMap((sample) => this.columns.map((c) => sample[c])).filter((v) => v !== null);
    const most = ceiling(Math.max(this.least, ...values));
    const x = (at) => WIDE - (end - at) / span * WIDE;
    const y = (value) => HIGH - value / most * HIGH;
    this.columns.forEach((column, i) => {
      const runs = [];
      let last = null;
      for (const sample of samples) {
        if (sample[column] === null) { last = null; continue; }
        if (last === null || sample[0] - last > 3) runs.push([]);
        runs[runs.length - 1].push([x(sample[0]), y(sample[column])]);
        last = sample[0];
      }
      const joined = runs.map((run) => "M" + run.map(([a, b]) => `${a.toFixed(1)} ${b.toFixed(1)}`).join("L"));
      this.paths[i].setAttribute("d", joined.join(""));
      if (this.area) {
        this.area.setAttribute("d", joined.map((path, n) =>
          `${path}V${HIGH}H${runs[n][0][0].toFixed(1)}Z`).join(""));
      }
    });
    this.top.textContent = `${most} ${this.unit}`;
    this.from.textContent = `${span / 60} min ago`;
    this.tell(samples[samples.length - 1]);
  }

  tell(sample) {
    this.value.replaceChildren();
    this.columns.forEach((column, i) => {
      const value = sample?.[column] ?? null;
      make("span", this.value, i ? "second" : "first", (i ? " / " : "") + (value === null ? "–" : short(value)));
    });
    make("small", this.value, "", ` ${this.unit}`);
  }
}

export function short(value) {
  return value >= 100 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(1);
}
