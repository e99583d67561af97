/** The weights of an answer's experts as a bar and in words. */
import type { ChameleonBlock } from "../../shared/contracts/responses.ts";
import { make, table } from "./elements.ts";
import { count, legend, percent, shareLegend, signedNats, surpriseBeside } from "./words.ts";

export type Experts = ChameleonBlock["experts"];

/** Ids in the order in which they were first drawn: each keeps its colour as long as the page is open. */
const drawn: string[] = [];
const colours = 4;

function kindOf(id: string): string {
  if (id === "base" || id === "static") return id;
  if (!drawn.includes(id)) drawn.push(id);
  return `adapter-${drawn.indexOf(id) % colours}`;
}

/** A bar of experts by weight. */
export function weightsBar(experts: Experts): HTMLElement {
  const parts = experts.filter(({ weight }) => weight > 0);
  const bar = make("span", { class: "weights-bar", "aria-hidden": "true" });
  for (const { id, weight } of parts) {
    const part = make("i", { class: kindOf(id) });
    part.style.flexGrow = String(weight);
    bar.append(part);
  }
  return bar;
}

/** Lists the experts that weigh something, the heaviest first. */
export function listExperts(list: HTMLElement, experts: Experts, nameOf: (id: string) => string): void {
  const items = experts
    .filter(({ weight }) => weight > 0)
    .toSorted((a, b) => b.weight - a.weight)
    .map(({ id, weight }) => {
      const colour = make("i", { class: kindOf(id), "aria-hidden": "true" });
      return make("li", { "data-expert": id }, colour, `${nameOf(id)} `, make("b", {}, percent(weight)));
    });
  list.replaceChildren(...items);
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
  if (evidence.tokens === 0) return "The prompt is too short to say anything, so these are the weights to begin with.";
  return `Together they are ${surpriseBeside(evidence.nats)} by the prompt itself, over ${count(evidence.tokens, "token")}.`;
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

/** Something that is compared with others: its bar is `share` of the widest. */
export interface Contestant {
  id: string;
  name: string;
  figure: string;
  share: number;
}

export function contest(contestants: readonly Contestant[]): HTMLElement {
  const items = contestants.map(({ id, name, figure, share }) => {
    const bar = make("i", { class: id === "mixture" ? "adapter-0" : "base", "aria-hidden": "true" });
    bar.style.width = `${100 * share}%`;
    return make("li", { "data-contestant": id }, make("span", {}, name), make("b", {}, figure), bar);
  });
  return make("ul", { class: "contest" }, ...items);
}

/** Mean log-probabilities of the same tokens, the base's first, as figures to be unfolded. */
export function figures(means: readonly { name: string; mean: number }[]): HTMLElement {
  const rows = means.map(({ name, mean }) => {
    const perplexity = Math.exp(-mean).toFixed(1);
    return [name, perplexity, (-mean).toFixed(3), signedNats(mean - means[0].mean)];
  });
  const heads = ["Scored by", "Perplexity", "Surprise, nats", "Gain over the base, nats"];
  const caption = "Mean over the scored tokens. Perplexity is e to the surprise: so many tokens, equally likely";
  return make("details", {}, make("summary", {}, "The figures"), table(caption, heads, rows));
}
