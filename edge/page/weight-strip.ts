/** The experts' weights for the prompt, and a strip that shows how the weights change along the prompt. */
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { type Api, isAbort } from "./api.ts";
import { byId } from "./elements.ts";
import { type Experts, evidenceText, expertsText, listExperts, weightsBar } from "./experts.ts";
import { beginningsOf } from "./pieces.ts";
import type { Reading } from "./preview.ts";
import { wishOf } from "./request.ts";

export class WeightStrip {
  readonly #api: Api;
  readonly #nameOf: (id: string) => string;
  readonly #strip = byId("strip");
  readonly #range = byId("strip-range", HTMLInputElement);
  readonly #title = byId("weights-title");
  #steps: { beginning: string; experts: Experts }[] = [];
  #running = new AbortController();

  constructor(api: Api, nameOf: (id: string) => string) {
    this.#api = api;
    this.#nameOf = nameOf;
    this.#range.addEventListener("input", () => this.#showStep(this.#range.valueAsNumber));
  }

  show(reading: Reading | null): void {
    this.#running.abort();
    this.#range.hidden = true;
    this.#strip.replaceChildren(...(reading ? [weightsBar(reading.block.experts)] : []));
    this.#title.textContent = reading ? "This prompt is answered by" : "";
    this.#showWeights(reading?.block.experts ?? []);
    const { evidence, mode } = reading?.block ?? {};
    byId("evidence").textContent = mode ? evidenceText(evidence ?? null, mode) : "";
  }

  /** Shows the weights after several beginnings of the prompt. Hides the strip if the weights cannot be loaded. */
  async trace({ prompt, promptTokens, block }: Reading, adapter: string): Promise<void> {
    this.#running.abort();
    this.#running = new AbortController();
    const { signal } = this.#running;
    const beginnings = beginningsOf(prompt, promptTokens);
    if (block.mode !== "evidence" || beginnings.length < 2) return;
    try {
      const body = { prompt: beginnings, max_tokens: 1, temperature: 0, ...wishOf(adapter, null, {}) };
      const { choices } = await this.#api.json<CompletionResponse>("/v1/completions", body, { signal });
      if (signal.aborted) return;
      const experts = new Map(choices.map(({ index, chameleon }) => [index, chameleon?.experts ?? []]));
      this.#steps = beginnings.map((beginning, i) => ({ beginning, experts: experts.get(i) ?? [] }));
      this.#strip.replaceChildren(...this.#steps.map((step) => weightsBar(step.experts)));
      const last = this.#steps.length - 1;
      this.#range.max = this.#range.value = String(last);
      this.#range.hidden = false;
      this.#showStep(last);
    } catch (error) {
      if (!isAbort(error)) this.#range.hidden = true;
    }
  }

  #showStep(at: number): void {
    const { beginning, experts } = this.#steps[at];
    const isWhole = at === this.#steps.length - 1;
    const end = beginning.length > 40 ? `…${beginning.slice(-40)}` : beginning;
    const place = isWhole ? "This prompt is answered by" : `After “${end}” it would be answered by`;
    this.#title.textContent = place;
    this.#range.setAttribute("aria-valuetext", `${place} ${expertsText(experts, this.#nameOf)}`);
    for (const [i, step] of [...this.#strip.children].entries()) step.toggleAttribute("data-at", i === at);
    this.#showWeights(experts);
  }

  #showWeights(experts: Experts): void {
    listExperts(byId("weights"), experts, this.#nameOf);
  }
}
