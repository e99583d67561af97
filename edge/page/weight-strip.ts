/** What answers the prompt: its experts' weights, and a strip of what they were after each token, to be scrubbed. */
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { type Api, isAbort } from "./api.ts";
import { byId } from "./elements.ts";
import { type Experts, evidenceText, expertsText, listExperts, weightsBar } from "./experts.ts";
import { placesOf, spansOf } from "./pieces.ts";
import type { Reading } from "./preview.ts";
import { wishOf } from "./request.ts";

interface WeightStripParts {
  api: Pick<Api, "json">;
  nameOf(id: string): string;
}

export class WeightStrip {
  readonly #parts: WeightStripParts;
  readonly #strip = byId("strip");
  readonly #range = byId("strip-range", HTMLInputElement);
  readonly #title = byId("weights-title");
  #steps: { beginning: string; experts: Experts }[] = [];
  #running = new AbortController();

  constructor(parts: WeightStripParts) {
    this.#parts = parts;
    this.#range.addEventListener("input", () => this.#showStep(this.#range.valueAsNumber));
  }

  /** Shows the weights of a whole prompt, or nothing. Forgets the steps of the prompt before. */
  show(reading: Reading | null): void {
    this.#running.abort();
    this.#range.hidden = true;
    this.#strip.replaceChildren(...(reading ? [weightsBar(reading.block.experts)] : []));
    this.#title.textContent = reading ? "This prompt is answered by" : "";
    this.#showWeights(reading?.block.experts ?? []);
    const { evidence, mode } = reading?.block ?? {};
    byId("evidence").textContent = mode ? evidenceText(evidence ?? null, mode) : "";
  }

  /** Asks for the weights after each of some tokens of a prompt, and shows the strip. Without an answer there is none. */
  async trace({ prompt, promptTokens, block }: Reading, adapter: string, evidenceTokens: number | null): Promise<void> {
    this.#running.abort();
    this.#running = new AbortController();
    const { signal } = this.#running;
    const places = placesOf(promptTokens);
    if (block.mode !== "evidence" || places.length < 2) return;
    const ask = (body: object) => this.#parts.api.json<CompletionResponse>("/v1/completions", body, { signal });
    try {
      const echo = await ask({ prompt, max_tokens: 0, echo: true, logprobs: 0 });
      const spans = spansOf(echo.choices[0]);
      const ends = [...new Set(places.map((place) => spans.findLastIndex(({ end }) => end <= place)))];
      const beginnings = ends.filter((end) => end >= 0).map((end) => textOf(spans.slice(0, end + 1)));
      const wish = wishOf(adapter, evidenceTokens, {});
      const { choices } = await ask({ prompt: beginnings, max_tokens: 1, temperature: 0, ...wish });
      if (signal.aborted) return;
      const experts = new Map(choices.map(({ index, chameleon }) => [index, chameleon?.experts ?? []]));
      this.#steps = beginnings.map((beginning, i) => ({ beginning, experts: experts.get(i) ?? [] }));
      this.#draw();
    } catch (error) {
      // Refused or malformed: the weights of the whole prompt are shown as they are.
      if (!isAbort(error)) this.#range.hidden = true;
    }
  }

  #draw(): void {
    const last = this.#steps.length - 1;
    this.#strip.replaceChildren(...this.#steps.map(({ experts }) => weightsBar(experts)));
    this.#range.max = String(last);
    this.#range.value = String(last);
    this.#range.hidden = false;
    this.#showStep(last);
  }

  #showStep(at: number): void {
    const { beginning, experts } = this.#steps[at];
    const isWhole = at === this.#steps.length - 1;
    const end = beginning.length > 40 ? `…${beginning.slice(-40)}` : beginning;
    const place = isWhole ? "This prompt is answered by" : `After “${end}” it would be answered by`;
    this.#title.textContent = place;
    this.#range.setAttribute("aria-valuetext", `${place} ${expertsText(experts, this.#parts.nameOf)}`);
    for (const [i, step] of [...this.#strip.children].entries()) step.toggleAttribute("data-at", i === at);
    this.#showWeights(experts);
  }

  #showWeights(experts: Experts): void {
    listExperts(byId("weights"), experts, this.#parts.nameOf);
  }
}

const textOf = (spans: readonly { text: string }[]) => spans.map(({ text }) => text).join("");
