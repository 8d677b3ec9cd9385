// Small charts of the last two minutes.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 40;

function svg(name, attributes) {
  const created = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) created.setAttribute(attribute, value);
  return created;
}

/** A chart of one or two series, which begins with 0 at the bottom. */
export class Chart {
  constructor(series) {
    this.element = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.element.append(svg("line", { x1: 0, x2: WIDTH, y1: HEIGHT - 0.5, y2: HEIGHT - 0.5 }));
    this.lines = Array.from({ length: series }, () => svg("polyline", {}));
    this.element.append(...this.lines);
    this.values = this.lines.map(() => []);
  }

  /** Adds a value to each series. `format` describes values to those who do not see the chart. */
  add(values, name, format) {
    for (const [index, value] of values.entries()) {
      this.values[index].push(value);
      if (this.values[index].length > WIDTH) this.values[index].shift();
    }
    const known = this.values.flat().filter((value) => value !== undefined);
    const top = Math.max(...known, 0);
    const scale = top > 0 ? (HEIGHT - 4) / top : 0;
    for (const [index, line] of this.lines.entries()) {
      const series = this.values[index];
      const offset = WIDTH - series.length;
      const points = series.map((value, x) => `${offset + x},${(HEIGHT - 1 - (value ?? 0) * scale).toFixed(1)}`);
      line.setAttribute("points", points.join(" "));
    }
    this.element.setAttribute("aria-label", `${name} in the last two minutes: at most ${format(top)}`);
  }
}
