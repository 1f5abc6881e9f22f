// Two drawings of numbers: lines over time or steps, and scores with their intervals.

import { area, curveMonotoneX, line, scaleLinear } from "./vendor/d3.js";
import { html } from "./vendor/preact.js";
import { useSize } from "./size.js";

const MARGIN = { top: 8, right: 12, bottom: 22, left: 44 };
const SMALL = { top: 4, right: 2, bottom: 4, left: 2 };

/** `series` are {name, points: [[x, y]], hue, dots, filled}. Without axes it is a small picture in a line of text. */
export function Lines({ series, label, height = 180, axes = true, format = String, from = 0, across = "" }) {
  const [ref, size] = useSize({ width: 480, height });
  const margin = axes ? MARGIN : SMALL;
  const points = series.flatMap((one) => one.points);
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  const x = scaleLinear([Math.min(...xs), Math.max(...xs)], [margin.left, size.width - margin.right]);
  const top = Math.max(...ys, from + 1e-9);
  const y = scaleLinear([Math.min(from, ...ys), top], [height - margin.bottom, margin.top]).nice(4);
  return html`<figure class="chart ${axes ? "" : "small"}" ref=${ref} role="img" aria-label=${label}>
    ${points.length > 0 && html`<svg width=${size.width} height=${height} aria-hidden="true">
      ${axes && ticksOf(y, format).map((tick) => html`<g class="tick">
        <line x1=${margin.left} x2=${size.width - margin.right} y1=${y(tick)} y2=${y(tick)} />
        <text x=${margin.left - 8} y=${y(tick) + 4} text-anchor="end">${format(tick)}</text>
      </g>`)}
      ${axes && across && html`<text class="across" x=${size.width - margin.right} y=${height - 5} text-anchor="end">
        ${across}</text>`}
      ${series.map((one) => html`<${Line} key=${one.name} ...${one} x=${x} y=${y} />`)}
    </svg>`}
    ${axes && series.length > 1 && html`<figcaption>${series.map((one) => html`<span class="key ${one.hue}"><i></i>
      ${one.name}</span>`)}</figcaption>`}
  </figure>`;
}

/** Some ticks, none that reads as the one before. */
const ticksOf = (y, format) =>
  y.ticks(4).filter((tick, index, all) => index === 0 || format(tick) !== format(all[index - 1]));

function Line({ points, hue, dots, filled, x, y }) {
  const px = ([value]) => x(value);
  const py = ([, value]) => y(value);
  const under = area().x(px).y0(y(y.domain()[0])).y1(py).curve(curveMonotoneX);
  return html`<g class="line ${hue}">
    ${filled && html`<path class="under" d=${under(points)} />`}
    <path d=${line().x(px).y(py).curve(curveMonotoneX)(points)} />
    ${dots && points.map((point) => html`<circle cx=${px(point)} cy=${py(point)} r="3.5" />`)}
  </g>`;
}

/** `rows` are {name, hue, value, low, high, note}, all in [0, 1]. */
export function Intervals({ rows, label }) {
  const percent = (value) => `${(value * 100).toFixed(1)}%`;
  return html`<div class="intervals" role="table" aria-label=${label}>
    ${rows.map((row) => html`<div class="interval ${row.hue}" role="row" key=${row.name}>
      <span class="who" role="rowheader">${row.name}</span>
      <span class="bar" role="presentation">
        <i class="value" style=${{ width: percent(row.value) }}></i>
        ${row.low !== null && row.low !== undefined && html`<i class="span"
          style=${{ left: percent(row.low), width: percent(row.high - row.low) }}></i>`}
      </span>
      <span class="number" role="cell">${row.value.toFixed(2)} <small>${row.note}</small></span>
    </div>`)}
  </div>`;
}
