/** “Continue”: the prompt, the weights of the experts that would answer it, and the two answers side by side. */
import { failureText } from "./api.ts";
import { drawExamples, fillAnswerers } from "./catalog-controls.ts";
import { examplesOf } from "./domains.ts";
import { Duel, type Outcome } from "./duel.ts";
import { byId } from "./elements.ts";
import { expertsText, legendRow, sourcesLegendRow } from "./experts.ts";
import type { Page } from "./page.ts";
import { alternativesOf, tokenNodes } from "./passages.ts";
import type { Side } from "./pieces.ts";
import { type Reading, startPreview } from "./preview.ts";
import { samplingOf, wishOf } from "./request.ts";
import { WeightStrip } from "./weight-strip.ts";
import { count } from "./words.ts";
import { startCodeDrawer } from "./write-drawers.ts";

const endings = {
  stop: "ended by itself",
  length: "ended at the token limit",
  stopped: "stopped by you",
  failed: "broke off",
};

export class Writer {
  readonly #page: Page;
  readonly #prompt = byId("prompt", HTMLTextAreaElement);
  readonly #answerer = byId("answerer", HTMLSelectElement);
  readonly #go = byId("go", HTMLButtonElement);
  readonly #status = byId("status");
  readonly #failure = byId("preview-failure");
  readonly #examples = byId("chips");
  readonly #preview: ReturnType<typeof startPreview>;
  readonly #duel: Duel;
  readonly #strip: WeightStrip;
  readonly #drawCode: () => void;
  #answered: Reading | null = null;

  constructor(page: Page) {
    this.#page = page;
    const { api, catalog, settings, texts } = page;
    this.#strip = new WeightStrip(api, (id) => catalog.nameOf(id));
    this.#preview = startPreview(api, (reading, failure) => this.#showReading(reading, failure));
    this.#duel = new Duel({
      api,
      elements: { base: byId("base-answer"), adapted: byId("adapted-answer") },
      baseModel: () => catalog.baseModel,
      now: page.now,
      onTell: (piece, isChosen) => {
        byId("token").replaceChildren(...tokenNodes(piece, texts), ...(isChosen ? alternativesOf(piece) : []));
      },
      onOutcome: (side, outcome) => this.#showOutcome(side, outcome),
      onRunning: (isRunning) => {
        this.#go.textContent = isRunning ? "Stop" : "Continue";
        this.#status.textContent = isRunning ? "" : "The answers have ended.";
      },
    });
    this.#drawCode = startCodeDrawer(
      () => this.#body(),
      () => settings.key,
    );
    this.#prompt.value = settings.current.prompt ?? "";
    this.#answerer.dataset.wanted = settings.current.answerer;
    fillAnswerers(this.#answerer, catalog, [
      ["auto", "what the prompt decides"],
      ["nearest", "the nearest kind of text"],
    ]);
    catalog.onChange(() => this.#drawExamples());
    this.#listen();
  }

  /** Shows the weights for the stored prompt. Without a stored prompt, runs the first example. */
  async begin(): Promise<void> {
    const { catalog, settings } = this.#page;
    const { prompt } = settings.current;
    this.#prompt.value = prompt ?? examplesOf(catalog.centroids)[0].text;
    if (prompt === null) await this.write();
    else this.#preview.soon(() => this.#wanted());
  }

  changed(): void {
    this.#drawCode();
    this.#mark();
    if (this.#prompt.value.trim() === "") this.#strip.show(null);
    else this.#preview.soon(() => this.#wanted());
  }

  answerWith(id: string): void {
    this.#answerer.value = id;
    this.#keepAnswerer();
    void this.write();
  }

  async write(): Promise<void> {
    this.changed();
    this.#status.textContent = "";
    if (this.#prompt.value.trim() === "") {
      this.#showReading(null, "Write a prompt first.");
      return;
    }
    try {
      const sampling = { seed: this.#page.draw(), ...samplingOf(this.#page.settings.current.sampling) };
      const reading = await this.#preview.now(this.#wanted());
      this.#answered = reading;
      const { prompt } = reading;
      const adapter = this.#answerer.value;
      this.#page.sent("write", prompt, sampling.seed);
      byId("token").replaceChildren();
      await this.#duel.run({ prompt, adapter, sampling });
      if (!this.#duel.isRunning && this.#prompt.value === prompt) await this.#strip.trace(reading, adapter);
    } catch (error) {
      this.#showReading(null, failureText(error));
    }
  }

  #drawExamples(): void {
    drawExamples(this.#examples, examplesOf(this.#page.catalog.centroids), ({ text }) => {
      this.#prompt.value = text;
      this.#page.settings.change({ prompt: text });
      void this.write();
    });
    this.#mark();
  }

  #mark(): void {
    for (const chip of this.#examples.querySelectorAll("button"))
      chip.setAttribute("aria-pressed", String(chip.dataset.text === this.#prompt.value));
  }

  #listen(): void {
    this.#prompt.addEventListener("input", () => {
      this.#page.settings.change({ prompt: this.#prompt.value });
      this.changed();
    });
    this.#prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) void this.write();
    });
    this.#answerer.addEventListener("change", () => {
      this.#keepAnswerer();
      this.changed();
    });
    byId("write-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#duel.isRunning) this.#duel.stop();
      else void this.write();
    });
  }

  #wanted() {
    return { prompt: this.#prompt.value, adapter: this.#answerer.value };
  }

  #body(): object {
    const sampling = samplingOf(this.#page.settings.current.sampling);
    return { prompt: this.#prompt.value, ...sampling, ...wishOf(this.#answerer.value, null, {}) };
  }

  #keepAnswerer(): void {
    this.#answerer.dataset.wanted = this.#answerer.value;
    this.#page.settings.change({ answerer: this.#answerer.value });
  }

  #showReading(reading: Reading | null, failure: string): void {
    this.#failure.textContent = failure;
    if (failure !== "") {
      for (const id of ["base-facts", "adapted-facts", "adapted-by", "token"]) byId(id).replaceChildren();
    }
    this.#strip.show(reading);
  }

  #showOutcome(side: Side, { tokens, ms, end, failure, block }: Outcome): void {
    const pace = tokens > 0 && ms > 0 ? `, ${count(Math.round((tokens / ms) * 1000), "token")} a second` : "";
    const state = end ? `; ${endings[end]}` : "…";
    byId(`${side}-facts`).textContent = end === "failed" ? "" : `${count(tokens, "token")}${pace}${state}`;
    byId(`${side}-failure`).textContent = failure;
    if (side === "base") return;
    // The prompt alone decides the weights, so the prompt's reading (`#answered`) serves until the answer ends, or if it was stopped.
    const experts = block?.experts ?? this.#answered?.block.experts ?? [];
    byId("adapted-by").textContent = expertsText(experts, (id) => this.#page.catalog.nameOf(id));
    if (!end) byId("legend").replaceChildren(legendRow());
    else if (block?.memories) byId("legend").append(sourcesLegendRow());
  }
}
