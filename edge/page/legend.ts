/** The scale of the tokens' colours, with its numbers, beside whatever is coloured by it. */
import { make } from "./elements.ts";
import { legend } from "./words.ts";

export function legendRow(): HTMLElement {
  const steps = legend.map(([step, text]) => make("li", { "data-step": step }, text));
  return make(
    "div",
    { class: "legend-row" },
    "With the adapters a token is",
    make("ul", { class: "legend" }, ...steps),
  );
}
