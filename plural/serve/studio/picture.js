// The network as a picture: the base in the middle, the specialists around it, larger the more they are asked, lit when
// they work; teams are constellations, lines from one member to the next. A drawing that stands still costs nothing, and
// the base computes on the same cores: only who works moves, and what was found in the cache when it is.

import { forceCollide, forceSimulation, forceX, forceY } from "./vendor/d3.js";
import { html, useMemo } from "./vendor/preact.js";
import { isOpen, lights } from "./asking.js";
import { NAMED } from "./colours.js";
import { isOver } from "./running.js";
import { useSize } from "./size.js";
import { BASE, NETWORK, cardOf, changed, hueOf, state } from "./store.js";

const SMALLEST = 18;
const LARGEST = 34;
const EDGE = 70; // room for names
const ONE_RING = 12; // more specialists than this are strewn like a sunflower's seeds

export function Picture() {
  const [ref, { width, height }] = useSize({ width: 640, height: 480 });
  const cards = state.cards ?? [];
  const radii = radiiOf(cards.map((card) => card.name), Math.min(1, Math.min(width, height) / 420));
  const made = cards.map((card) => `${card.name}:${Math.round(radii.get(card.name))}`).join();
  const places = useMemo(() => placed(cards, radii, width, height), [made, width, height]);
  const shown = lights();
  const at = (name) => (name === BASE ? { x: width / 2, y: height / 2, r: baseRadius(width, height) } : places.get(name));
  const title = `The network: the base and ${cards.length} specialist${cards.length === 1 ? "" : "s"}`;
  return html`<div class="picture" ref=${ref}>
    <svg viewBox="0 0 ${width} ${height}" role="group" aria-label=${title}>
      <${Orbit} count=${cards.length} width=${width} height=${height} />
      ${state.teams.map((team, index) => html`<${Constellation} key=${team.id} team=${team} index=${index}
        places=${team.members.map(at).filter(Boolean)} middle=${at(BASE)} />`)}
      ${cards.map((card) => html`<${Ray} key=${card.name} name=${card.name} from=${at(BASE)}
        to=${at(card.name)} ...${shown} />`)}
      ${shown.links.map(({ from, to, given }) => html`<${Handover} key=${`${from}>${to}`}
        from=${at(from)} to=${at(to)} given=${given} />`)}
      <${Base} ...${at(BASE)} ...${shown} />
      ${cards.map((card) => html`<${Specialist} key=${card.name} card=${card} ...${at(card.name)} ...${shown} />`)}
    </svg>
    <${Legend} />
    <${Teams} />
  </div>`;
}

/** What the marks around who is shown mean. */
function Legend() {
  const mark = (className) => html`<svg width="18" height="18" class="base" aria-hidden="true">
    <circle class="disc ${className === "lit" ? "lit" : ""}" cx="9" cy="9" r="3.5" />
    ${className === "found" && html`<${Found} x=${9} y=${9} r=${-2} prompt=${3} cached=${2} />`}
    ${className === "score" && html`<circle class="score" cx="9" cy="9" r="7" stroke-dasharray="30 44"
      transform="rotate(-90 9 9)" />`}</svg>`;
  return html`<ul class="legend" aria-label="Legend">
    <li>${mark("lit")}at work</li><li>${mark("score")}score</li><li>${mark("found")}prompt found in the cache</li>
  </ul>`;
}

/** How much of what somebody read was found in the cache, as a ring of ticks. */
function Found({ x, y, r, prompt, cached }) {
  const [round, share] = [r + 10, cached / prompt];
  const angle = 2 * Math.PI * Math.min(share, 0.9999);
  const [endX, endY] = [x + round * Math.sin(angle), y - round * Math.cos(angle)];
  return html`<path class="found" d="M${x} ${y - round}A${round} ${round} 0 ${share > 0.5 ? 1 : 0} 1 ${endX} ${endY}" />`;
}

/** The teams by name: whoever points at one sees its constellation, whoever chooses one asks it. */
function Teams() {
  if (!state.teams.length) return null;
  const point = (id) => () => ((state.team = id), changed());
  const choose = (id) => () => (Object.assign(state.draft, { model: id }), changed());
  return html`<ul class="teams" aria-label="Teams">${state.teams.map(({ id, members }, index) => html`<li key=${id}>
    <a href="#ask" class=${hueOfTeam(index)} title=${[...new Set(members)].join(", ")} onClick=${choose(id)}
      onMouseEnter=${point(id)} onMouseLeave=${point(null)} onFocus=${point(id)} onBlur=${point(null)}>
      <i class="dot"></i>${id}</a></li>`)}</ul>`;
}

/** Bowed away from the base, so that lines are not taken for its rays. A member alone has a ring. */
function Constellation({ team, index, places, middle }) {
  if (!places.length) return null;
  const states = [hueOfTeam(index), isAtWork(team.id) && "lit", state.team === team.id && "here"];
  const [first, ...rest] = places;
  let [line, before] = [`M${first.x} ${first.y}`, first];
  for (const place of rest.filter((place, at) => place !== places[at])) {
    line += `Q${bow(before, place, middle).join(" ")} ${place.x} ${place.y}`;
    before = place;
  }
  const alone = places.every((place) => place === first);
  return html`<g class="constellation ${states.filter(Boolean).join(" ")}" aria-hidden="true">
    ${alone ? html`<circle cx=${first.x} cy=${first.y} r=${first.r + 17} />` : html`<path d=${line} />`}
  </g>`;
}

/** Where a line from one to the other is drawn to, so that it goes around the base. */
function bow(one, other, middle) {
  const [x, y] = [(one.x + other.x) / 2, (one.y + other.y) / 2];
  const [outX, outY] = [x - middle.x, y - middle.y];
  const far = Math.hypot(outX, outY);
  const across = Math.hypot(other.x - one.x, other.y - one.y) || 1;
  const [toX, toY] = far > 8 ? [outX / far, outY / far] : [(one.y - other.y) / across, (other.x - one.x) / across];
  const wanted = Math.max(1.3 * far, 3 * middle.r);
  return [middle.x + toX * wanted, middle.y + toY * wanted];
}

const hueOfTeam = (index) => `skill-${(index + 3) % NAMED}`;

function isAtWork(id) {
  const { run } = state.running;
  const running = state.view[0] === "runs" && state.view[1] && run?.model === id && !isOver(run);
  return running || (state.turns.at(-1)?.answers ?? []).some((answer) => answer.model === id && isOpen(answer));
}

const baseRadius = (width, height) => Math.max(26, Math.min(width, height) * 0.085);

/** Half the axes of the ellipse on which specialists stand: never much taller than wide. */
const orbit = (width, height) => {
  const edge = Math.min(EDGE, width / 8);
  return [width / 2 - edge, Math.min(height / 2 - edge, (width / 2 - edge) * 1.1)];
};

/** By how often each one was asked since the server started; areas compare. */
function radiiOf(names, scale) {
  const use = state.readings.at(-1)?.use ?? new Map();
  const most = Math.max(1, ...names.map((name) => use.get(name) ?? 0));
  const radius = (name) => scale * (SMALLEST + (LARGEST - SMALLEST) * Math.sqrt((use.get(name) ?? 0) / most));
  return new Map(names.map((name) => [name, radius(name)]));
}

/** Each one's place: where it belongs, as near as the others let it. */
function placed(cards, radii, width, height) {
  const [across, down] = cards.length > ONE_RING ? [width / 2 - EDGE, height / 2 - EDGE] : orbit(width, height);
  const base = { fx: width / 2, fy: height / 2, r: baseRadius(width, height) + 12 };
  const nodes = cards.map(({ name }, index) => {
    const [angle, far] = polar(index, cards.length);
    const [x, y] = [width / 2 + Math.cos(angle) * across * far, height / 2 + Math.sin(angle) * down * far];
    return { name, x, y, wantedX: x, wantedY: y, r: radii.get(name) };
  });
  forceSimulation([base, ...nodes])
    .force("x", forceX((node) => node.wantedX ?? width / 2).strength(0.3))
    .force("y", forceY((node) => node.wantedY ?? height / 2).strength(0.3))
    .force("apart", forceCollide((node) => node.r + 14))
    .stop()
    .tick(120);
  const within = (value, room) => Math.min(room - 34, Math.max(34, value));
  return new Map(nodes.map(({ name, x, y, r }) => [name, { x: within(x, width), y: within(y, height - 14), r }]));
}

function polar(index, count) {
  if (count <= ONE_RING) return [((index + 0.5) / count) * 2 * Math.PI - Math.PI / 2, 1];
  return [index * Math.PI * (3 - Math.sqrt(5)), Math.sqrt((index + 2.5) / (count + 2))];
}

function Orbit({ count, width, height }) {
  if (count === 0 || count > ONE_RING) return null;
  const [across, down] = orbit(width, height);
  return html`<ellipse class="orbit" cx=${width / 2} cy=${height / 2} rx=${across} ry=${down} />`;
}

const isLit = (lit, name) => ["working", "speaking", "calling"].includes(lit.get(name)) || state.flashes.has(name);

/** From the base to a specialist: as wide as the router thought it probable. */
function Ray({ name, from, to, lit, shares }) {
  const share = shares.get(name);
  const [midX, midY] = [from.x + (to.x - from.x) * 0.56, from.y + (to.y - from.y) * 0.56];
  return html`<g class="ray ${hueOf(name)} ${isLit(lit, name) ? "lit" : ""} ${share > 0.005 ? "likely" : ""}">
    <line x1=${from.x} y1=${from.y} x2=${to.x} y2=${to.y} stroke-width=${1 + 7 * (share ?? 0)} />
    ${share > 0.005 && html`<text class="share" x=${midX} y=${midY + 4}>${share.toFixed(2)}</text>`}
  </g>`;
}

/** An answer that one step gets from another, past the base. */
function Handover({ from, to, given }) {
  if (!from || !to) return null;
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const far = Math.hypot(dx, dy) || 1;
  const [cx, cy] = [(from.x + to.x) / 2 - (dy / far) * far * 0.22, (from.y + to.y) / 2 + (dx / far) * far * 0.22];
  const [ex, ey] = [to.x - cx, to.y - cy];
  const end = Math.hypot(ex, ey) || 1;
  const [tipX, tipY] = [to.x - (ex / end) * (to.r + 8), to.y - (ey / end) * (to.r + 8)];
  const angle = (Math.atan2(ey, ex) * 180) / Math.PI;
  return html`<g class="handover ${given ? "given" : ""}">
    <path d="M${from.x} ${from.y}Q${cx} ${cy} ${tipX} ${tipY}" />
    <path class="tip" d="M0 0-9 -5-9 5Z" transform="translate(${tipX} ${tipY}) rotate(${angle})" />
  </g>`;
}

function Base({ x, y, r, lit, shares, found }) {
  const here = state.view[0] === "library" && state.view[1] === BASE;
  const working = isLit(lit, BASE) || [...lit.values()].some((one) => one === "speaking" || one === "working");
  const share = shares.get(BASE);
  return html`<a href="#library/base" class="node base ${working ? "lit" : ""} ${here ? "here" : ""}"
    aria-label="The base, ${state.base?.root ?? ""}${foundOf(found.get(BASE))}">
    <circle class="halo" cx=${x} cy=${y} r=${r + 9} />
    <circle class="body" cx=${x} cy=${y} r=${r} />
    ${found.get(BASE)?.cached > 0 && html`<${Found} x=${x} y=${y} r=${r - 4} ...${found.get(BASE)} />`}
    <text class="name" x=${x} y=${y + (share > 0.005 ? -1 : 5)}>base</text>
    ${share > 0.005 && html`<text class="share" x=${x} y=${y + 15}>${share.toFixed(2)}</text>`}
  </a>`;
}

/** The same in words. */
const foundOf = (found) => (found?.cached > 0 ? `, ${found.cached} of ${found.prompt} tokens found in the cache` : "");

function Specialist({ card, x, y, r, lit, steps, tools, found }) {
  const { name } = card;
  const status = lit.get(name);
  const score = card.scores.specialist?.[0]?.value;
  const round = 2 * Math.PI * (r + 4.5);
  const here = state.view[0] === "library" && state.view[1] === name;
  const states = [isLit(lit, name) && "lit", status === "done" && "done", status === "failed" && "failed",
    card.kind === "planner" && "planner", here && "here"];
  const scored = score === undefined ? "not scored" : `score ${score.toFixed(2)}`;
  return html`<a href="#library/${name}" class="node ${hueOf(name)} ${states.filter(Boolean).join(" ")}"
    aria-label="${name}, ${scored}${status ? `, ${status}` : ""}${foundOf(found.get(name))}">
    <title>${card.purpose}</title>
    <circle class="halo" cx=${x} cy=${y} r=${r + 11} />
    <circle class="body" cx=${x} cy=${y} r=${r} />
    ${score !== undefined && html`<circle class="track" cx=${x} cy=${y} r=${r + 4.5} />
      <circle class="score ${score > 0.01 ? "" : "none"}" cx=${x} cy=${y} r=${r + 4.5}
        stroke-dasharray="${round * score} ${round}" transform="rotate(-90 ${x} ${y})" />`}
    ${found.get(name)?.cached > 0 && html`<${Found} x=${x} y=${y} r=${r} ...${found.get(name)} />`}
    <text class="badge" x=${x} y=${y + 5}>${badge(card, steps.get(name))}</text>
    <text class="name" x=${x} y=${y + r + 25}>${name}</text>
    ${tools.has(name) && html`<text class="tool" x=${x} y=${y + r + 39}>${tools.get(name).join(", ")}</text>`}
  </a>`;
}

/** The steps that are its own, of many the last ones, or what kind it is. */
function badge(card, steps) {
  if (steps) return steps.length > 3 ? `… ${steps.slice(-2).join(" ")}` : steps.join(" ");
  if (card.kind === "planner") return "⋔";
  return card.tools.length ? "ƒ" : "";
}

/** What the picture says, for those who do not see it. */
export function told() {
  const { lit } = lights();
  const working = [...lit].filter(([, status]) => status !== "done").map(([name]) => name);
  return working.filter((name) => name !== NETWORK && (name === BASE || cardOf(name))).join(", ");
}
