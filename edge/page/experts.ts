import type { ChameleonBlock } from "../../shared/contracts/responses.ts";
import { make } from "./elements.ts";
import { count, legend, percent, shareLegend, surpriseBeside } from "./words.ts";

export type Experts = ChameleonBlock["experts"];

/** Adapter ids in the order of their first drawing, which gives each adapter the same colour everywhere. */
const drawn: string[] = [];
const colours = 4;

function kindOf(id: string): string {
  if (id === "base" || id === "static") return id;
  if (!drawn.includes(id)) drawn.push(id);
  return `adapter-${drawn.indexOf(id) % colours}`;
}

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

export function listExperts(list: HTMLElement, experts: Experts, nameOf: (id: string) => string): void {
  const items = heaviestFirst(experts).map(({ id, weight }) => {
    const colour = make("i", { class: kindOf(id), "aria-hidden": "true" });
    return make("li", { "data-expert": id }, colour, `${nameOf(id)} `, make("b", {}, percent(weight)));
  });
  list.replaceChildren(...items);
}

/** For example "90% French, 10% Base". */
export function expertsText(experts: Experts, nameOf: (id: string) => string): string {
  const parts = heaviestFirst(experts).map(({ id, weight }) => `${percent(weight)} ${nameOf(id)}`);
  return parts.join(", ");
}

function heaviestFirst(experts: Experts): Experts {
  return experts.filter(({ weight }) => weight > 0).sort((a, b) => b.weight - a.weight);
}

export function evidenceText(evidence: ChameleonBlock["evidence"], mode: ChameleonBlock["mode"]): string {
  if (mode === "auto-off") return "The adapter did not help where it was measured, so it stays out.";
  if (mode === "adapted") return "This adapter answers alone, at full strength; the prompt does not decide.";
  if (mode === "off") return "The base answers alone.";
  if (!evidence) return "These weights were given; the prompt did not decide.";
  if (evidence.tokens === 0) return "The prompt is too short to say anything, so these are the weights to begin with.";
  return `Together they are ${surpriseBeside(evidence.nats)} by the prompt itself, over ${count(evidence.tokens, "token")}.`;
}

export function legendRow(): HTMLElement {
  return rowOf("With the adapters a token is", "data-step", legend);
}

export function sourcesLegendRow(): HTMLElement {
  return rowOf("Of a token's probability, documents gave", "data-share", shareLegend);
}

function rowOf(text: string, attribute: string, entries: readonly (readonly [string, string])[]): HTMLElement {
  const steps = entries.map(([step, meaning]) => make("li", { [attribute]: step }, meaning));
  return make("div", { class: "legend-row" }, text, make("ul", { class: "legend" }, ...steps));
}

/** `share`: length of the entry's bar, as a part of the width. */
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
