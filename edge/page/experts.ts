/** The weights of an answer's experts as a bar and in words. */
import type { ChameleonBlock } from "../../shared/contracts/responses.ts";
import { make } from "./elements.ts";
import { count, legend, percent, perplexityBesideBase, shareLegend } from "./words.ts";

type Experts = ChameleonBlock["experts"];

const kindOf = (id: string, adapter: number) => (id === "base" ? id : `adapter-${adapter % 3}`);

/** Draws the experts that weigh something, the heaviest first in words. */
export function showExperts(container: HTMLElement, experts: Experts, nameOf: (id: string) => string): void {
  const adapters = experts.filter(({ id }) => id !== "base");
  const shown = experts
    .filter(({ weight }) => weight > 0)
    .map(({ id, weight }) => ({
      id,
      weight,
      kind: kindOf(
        id,
        adapters.findIndex((one) => one.id === id),
      ),
    }));
  const bar = make("div", { class: "weights-bar", "aria-hidden": "true" });
  for (const { weight, kind } of shown) {
    const part = make("i", { class: kind });
    part.style.flexGrow = String(weight);
    bar.append(part);
  }
  const items = shown
    .toSorted((a, b) => b.weight - a.weight)
    .map(({ id, weight, kind }) =>
      make(
        "li",
        { "data-expert": id },
        make("i", { class: kind, "aria-hidden": "true" }),
        `${nameOf(id)} `,
        make("b", {}, percent(weight)),
      ),
    );
  container.replaceChildren(bar, make("ul", { class: "weights-list" }, ...items));
}

/** The same in one line: "90% French, 10% Base". */
export function expertsText(experts: Experts, nameOf: (id: string) => string): string {
  return experts
    .filter(({ weight }) => weight > 0)
    .toSorted((a, b) => b.weight - a.weight)
    .map(({ id, weight }) => `${percent(weight)} ${nameOf(id)}`)
    .join(", ");
}

/** What the mixture gained on the prompt, in a sentence. */
export function evidenceText(evidence: ChameleonBlock["evidence"], mode: ChameleonBlock["mode"]): string {
  if (mode === "auto-off") return "The adapter did not help where it was measured, so it stays out.";
  if (mode === "adapted") return "This adapter answers alone, at full strength; the prompt does not decide.";
  if (mode === "off") return "The base answers alone.";
  if (!evidence) return "These weights were given; the prompt did not decide.";
  if (evidence.tokens === 0)
    return "The prompt is too short to say anything; the weights are those before any evidence.";
  return `On ${count(evidence.tokens, "token")} of the prompt itself: ${perplexityBesideBase(evidence.nats)}.`;
}

/** What the colours of tokens say. */
export function legendRow(): HTMLElement {
  return rowOf("With the adapters a token is", "data-step", legend);
}

/** What the colours say of tokens that tell where they came from. */
export function sourcesLegendRow(): HTMLElement {
  return rowOf("Of a token's probability, your text gave", "data-share", shareLegend);
}

function rowOf(text: string, attribute: string, entries: readonly (readonly [string, string])[]): HTMLElement {
  const steps = entries.map(([step, meaning]) => make("li", { [attribute]: step }, meaning));
  return make("div", { class: "legend-row" }, text, make("ul", { class: "legend" }, ...steps));
}
