// A colour for every skill: eight that studio.css names, and as many more as there are skills, each the golden angle on
// from the one before, darker on light paper and lighter on dark than the eight.

export const NAMED = 8;
const ANGLE = 180 * (3 - Math.sqrt(5));
const FIRST = 325; // degrees of oklch: where the eight leave the widest gap

const more = new CSSStyleSheet();
document.adoptedStyleSheets = [...document.adoptedStyleSheets, more];
let made = NAMED;

/** The class that gives the colour of the skill in this place. */
export function skill(index) {
  for (; made <= index; made += 1) {
    const hue = ((FIRST + (made - NAMED) * ANGLE) % 360).toFixed(1);
    const pair = `light-dark(oklch(0.42 0.15 ${hue}), oklch(0.87 0.1 ${hue}))`;
    more.insertRule(`.skill-${made} { --hue: ${pair}; }`);
  }
  return `skill-${index}`;
}
