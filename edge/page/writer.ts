/** “Continue”: the prompt, what would answer it, and the two answers beside each other. */
import { failureText } from "./api.ts";
import { drawExamples, type Example, fillAnswerers } from "./catalog-controls.ts";
import { examplesOf } from "./domains.ts";
import { Duel, type Outcome } from "./duel.ts";
import { byId } from "./elements.ts";
import { expertsText, legendRow, sourcesLegendRow } from "./experts.ts";
import type { Page, Passage } from "./page.ts";
import type { Side } from "./pieces.ts";
import { Preview, type Reading } from "./preview.ts";
import { type Sampling, samplingOf, wishOf } from "./request.ts";
import { TokenPanel } from "./token-panel.ts";
import { WeightStrip } from "./weight-strip.ts";
import { count } from "./words.ts";
import { CodeDrawer } from "./write-drawers.ts";

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
  readonly #preview: Preview;
  readonly #duel: Duel;
  readonly #strip: WeightStrip;
  readonly #code: CodeDrawer;
  #passages: readonly Passage[] = [];
  /** Of the prompt that is being answered. */
  #answered: Reading | null = null;

  constructor(page: Page) {
    this.#page = page;
    const { api, catalog, settings, texts } = page;
    this.#strip = new WeightStrip({ api, nameOf: (id) => catalog.nameOf(id) });
    this.#preview = new Preview(api, (reading, failure) => this.#showReading(reading, failure));
    const panel = new TokenPanel({
      ...{ api, texts, element: byId("token") },
      question: () => this.#duel.question,
      wish: (side, question) => this.#duel.wish(side, question),
      onContinue: (side, place, token) => void this.#during(this.#duel.continueFrom(side, place, token)),
    });
    this.#duel = new Duel({
      api,
      elements: { base: byId("base-answer"), adapted: byId("adapted-answer") },
      baseModel: () => catalog.baseModel,
      now: page.now,
      onTell: (side, answer, place, isChosen) => void panel.show(side, answer, place, isChosen),
      onOutcome: (side, outcome) => this.#showOutcome(side, outcome),
    });
    this.#code = new CodeDrawer({ body: () => this.#body(), key: () => settings.key });
    this.#prompt.value = settings.current.prompt ?? "";
    this.#answerer.dataset.wanted = settings.current.answerer;
    fillAnswerers(this.#answerer, catalog, [
      ["auto", "what the prompt decides"],
      ["nearest", "the nearest kind of text"],
    ]);
    catalog.onChange(() => this.#drawExamples());
    this.#listen();
  }

  /** Shows what would answer the kept prompt; without one, lets the first example run. */
  async begin(): Promise<void> {
    const { catalog, settings } = this.#page;
    const { answerer, prompt } = settings.current;
    this.#answerer.dataset.wanted = answerer;
    this.#answerer.value = answerer;
    this.#prompt.value = prompt ?? examplesOf(catalog.centroids)[0].text;
    if (prompt === null) await this.write();
    else this.#preview.soon(() => this.#wanted());
  }

  /** Says what would answer, after a field has changed. */
  changed(): void {
    this.#code.draw();
    this.#mark();
    if (this.#prompt.value.trim() === "") this.#strip.show(null);
    else this.#preview.soon(() => this.#wanted());
  }

  answerWith(id: string): void {
    this.#answerer.value = id;
    this.#keepAnswerer();
    void this.write();
  }

  /** Offers beginnings of a text before the other examples, and writes the first of them. */
  compare(passages: readonly Passage[]): void {
    this.#passages = passages;
    this.#drawExamples();
    if (passages.length > 0) this.#writeExample(passages[0]);
  }

  /** Offers no beginnings with this adapter any more. */
  forget(adapter: string): void {
    this.#passages = this.#passages.filter((one) => one.adapter !== adapter);
    this.#drawExamples();
  }

  async write(): Promise<void> {
    this.changed();
    this.#status.textContent = "";
    if (this.#prompt.value.trim() === "") {
      this.#showReading(null, "Write a prompt first.");
      return;
    }
    try {
      const sampling = this.#sampling();
      const reading = await this.#preview.now(() => this.#wanted());
      this.#answered = reading;
      const { prompt, promptTokens } = reading;
      const adapter = this.#answerer.value;
      this.#page.sent("write", prompt, sampling.fields.seed as number);
      const author = this.#passages.find((passage) => passage.text === prompt);
      byId("author-card").hidden = !author;
      byId("author-answer").textContent = author ? `${author.continuation}…` : "";
      byId("token").replaceChildren();
      await this.#during(this.#duel.run({ prompt, promptTokens, adapter, sampling }));
      if (!this.#duel.isRunning && this.#prompt.value === prompt)
        await this.#strip.trace(reading, adapter, sampling.evidenceTokens);
    } catch (error) {
      this.#showReading(null, failureText(error));
    }
  }

  #writeExample({ text, adapter }: Example & Partial<Passage>): void {
    this.#prompt.value = text;
    this.#page.settings.change({ prompt: text });
    if (adapter) this.answerWith(adapter);
    else void this.write();
  }

  #drawExamples(): void {
    const examples = [...this.#passages, ...examplesOf(this.#page.catalog.centroids)];
    drawExamples(this.#examples, examples, (example) => this.#writeExample(example));
    this.#mark();
  }

  #mark(): void {
    for (const chip of this.#examples.querySelectorAll("button"))
      chip.setAttribute("aria-pressed", String(chip.dataset.text === this.#prompt.value));
  }

  /** Throws CallFailure for a field that cannot be read. */
  #sampling(): Sampling {
    const sampling = samplingOf(this.#page.settings.current.sampling);
    const seed = sampling.fields.seed ?? this.#page.draw();
    return { ...sampling, fields: { ...sampling.fields, seed } };
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

  async #during(work: Promise<void>): Promise<void> {
    this.#status.textContent = "";
    this.#go.textContent = "Stop";
    try {
      await work;
    } finally {
      if (!this.#duel.isRunning) {
        this.#go.textContent = "Continue";
        this.#status.textContent = "The answers have ended.";
      }
    }
  }

  #wanted() {
    const { evidenceTokens } = samplingOf(this.#page.settings.current.sampling);
    return { prompt: this.#prompt.value, adapter: this.#answerer.value, evidenceTokens };
  }

  #body(): object {
    const { fields, evidenceTokens } = samplingOf(this.#page.settings.current.sampling);
    return { prompt: this.#prompt.value, ...fields, ...wishOf(this.#answerer.value, evidenceTokens, {}) };
  }

  #keepAnswerer(): void {
    this.#answerer.dataset.wanted = this.#answerer.value;
    this.#page.settings.change({ answerer: this.#answerer.value });
  }

  /** Shows what the API says of the prompt; beside a failure, no figure of a prompt before it. */
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
    // The weights are the prompt's, so they are known before the answer tells them, and of a stopped one, too.
    const experts = block?.experts ?? this.#answered?.block.experts ?? [];
    byId("adapted-by").textContent = expertsText(experts, (id) => this.#page.catalog.nameOf(id));
    if (!end) byId("legend").replaceChildren(legendRow());
    else if (block?.memories) byId("legend").append(sourcesLegendRow());
  }
}
