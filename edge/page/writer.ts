/** “Write”: the prompt, what would answer it, and the two answers beside each other. */

import { type Api, failureText } from "./api.ts";
import type { Catalog } from "./catalog.ts";
import { ExampleChips, fillAnswerers } from "./catalog-controls.ts";
import type { Column } from "./column.ts";
import { examplesOf } from "./domains.ts";
import { Duel, type Outcome } from "./duel.ts";
import { byId } from "./elements.ts";
import { evidenceText, expertsText, legendRow, showExperts } from "./experts.ts";
import { Preview, type Reading } from "./preview.ts";
import { type Answerer, type Sampling, samplingOf, wishOf } from "./request.ts";
import type { SettingsStore } from "./settings.ts";
import { SnippetPanel } from "./snippet-panel.ts";
import { TokenPanel } from "./token-panel.ts";
import { count } from "./words.ts";

export interface WriterParts {
  api: Api;
  catalog: Catalog;
  settings: SettingsStore;
  /** A clock in milliseconds. */
  now(): number;
  /** A random seed. */
  draw(): number;
  onReading(reading: Reading | null): void;
}

const endings = {
  stop: "ended by itself",
  length: "ended at the token limit",
  stopped: "stopped by you",
  failed: "broke off",
};

export class Writer {
  readonly #parts: WriterParts;
  readonly #prompt = byId("prompt", HTMLTextAreaElement);
  readonly #answerer = byId("answerer", HTMLSelectElement);
  readonly #experts = byId("experts", HTMLInputElement);
  readonly #go = byId("go", HTMLButtonElement);
  readonly #status = byId("status", HTMLElement);
  readonly #preview: Preview;
  readonly #duel: Duel;
  readonly #tokenPanel: TokenPanel;
  readonly #snippets: SnippetPanel;
  readonly #chips: ExampleChips;
  /** Of the prompt that is being answered. */
  #answered: Reading | null = null;

  constructor(parts: WriterParts) {
    this.#parts = parts;
    const { api, catalog, settings } = parts;
    this.#preview = new Preview(api, (reading, failure) => this.#showReading(reading, failure));
    this.#duel = new Duel({
      api,
      base: byId("base-answer", HTMLElement),
      adapted: byId("adapted-answer", HTMLElement),
      baseModel: () => catalog.baseModel,
      now: parts.now,
      onSelect: (place) => void this.#tokenPanel.show(place),
      onOutcome: (column, outcome) => this.#showOutcome(column, outcome),
    });
    this.#tokenPanel = new TokenPanel({
      api,
      element: byId("token", HTMLElement),
      questionOf: () => this.#duel.question,
      otherWish: (column, question) =>
        this.#duel.wish(column.side === "base" ? this.#duel.adapted : this.#duel.base, question),
      onContinue: (place, token) => void this.#during(this.#duel.continueFrom(place, token)),
    });
    this.#snippets = new SnippetPanel({ body: () => this.#body(), key: () => settings.key });
    this.#prompt.value = settings.current.prompt ?? "";
    this.#answerer.dataset.wanted = settings.current.answerer.choice;
    this.#experts.value = settings.current.answerer.list;
    fillAnswerers(this.#answerer, catalog, [
      ["auto", "What the prompt decides"],
      ["nearest", "The nearest domain alone"],
      ["list", "A list of experts…"],
    ]);
    this.#chips = new ExampleChips(byId("chips", HTMLElement), catalog, (prompt) => this.#writeExample(prompt));
    byId("legend", HTMLElement).replaceChildren(legendRow());
    this.#listen();
  }

  /** Shows what would answer the kept prompt; without one, lets the first example run. */
  async begin(): Promise<void> {
    const { catalog, settings } = this.#parts;
    const { choice, list } = settings.current.answerer;
    this.#answerer.dataset.wanted = choice;
    this.#answerer.value = choice;
    this.#experts.value = list;
    this.#showAnswerer();
    if (settings.current.prompt === null) {
      this.#prompt.value = examplesOf(catalog.centroids)[0].example;
      await this.write();
    } else {
      this.#prompt.value = settings.current.prompt;
      await this.#preview.attempt(() => this.#wanted());
    }
  }

  /** Says what would answer, after a field has changed. */
  changed(): void {
    this.#snippets.draw();
    this.#chips.mark(this.#prompt.value);
    if (this.#prompt.value.trim() === "") return;
    this.#preview.soon(() => this.#wanted());
  }

  #writeExample(prompt: string): void {
    this.#prompt.value = prompt;
    this.#parts.settings.change({ prompt });
    void this.write();
  }

  answerWith(id: string): void {
    this.#answerer.value = id;
    this.#keepAnswerer();
    void this.write();
  }

  get prompt(): string {
    return this.#prompt.value;
  }

  /** Throws CallFailure for a field that cannot be read. */
  sampling(): Sampling {
    const sampling = samplingOf(this.#parts.settings.current.sampling);
    const seed = sampling.fields.seed ?? this.#parts.draw();
    return { ...sampling, fields: { ...sampling.fields, seed } };
  }

  async write(): Promise<void> {
    this.changed();
    this.#status.textContent = "";
    const failure = byId("preview-failure", HTMLElement);
    if (this.#prompt.value.trim() === "") {
      failure.textContent = "Write a prompt first.";
      return;
    }
    try {
      const sampling = this.sampling();
      const reading = await this.#preview.now(this.#wanted());
      this.#answered = reading;
      const { prompt } = reading;
      const question = { prompt, promptTokens: reading.promptTokens, answerer: this.#wish(), sampling };
      await this.#during(this.#duel.run(question));
    } catch (error) {
      failure.textContent = failureText(error);
    }
  }

  #listen(): void {
    this.#prompt.addEventListener("input", () => {
      this.#parts.settings.change({ prompt: this.#prompt.value });
      this.changed();
    });
    this.#prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) void this.write();
    });
    for (const field of [this.#answerer, this.#experts]) {
      field.addEventListener("change", () => {
        this.#keepAnswerer();
        this.changed();
      });
    }
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
        this.#go.textContent = "Write";
        this.#status.textContent = "The answers have ended.";
      }
    }
  }

  #wish(): Answerer {
    return { choice: this.#answerer.value, list: this.#experts.value };
  }

  #wanted() {
    const { evidenceTokens } = samplingOf(this.#parts.settings.current.sampling);
    return { prompt: this.#prompt.value, answerer: this.#wish(), evidenceTokens };
  }

  #body(): object {
    const { fields, evidenceTokens } = samplingOf(this.#parts.settings.current.sampling);
    return { prompt: this.#prompt.value, ...fields, ...wishOf(this.#wish(), evidenceTokens, false) };
  }

  #keepAnswerer(): void {
    this.#answerer.dataset.wanted = this.#answerer.value;
    this.#parts.settings.change({ answerer: this.#wish() });
    this.#showAnswerer();
  }

  #showAnswerer(): void {
    byId("experts-field", HTMLElement).hidden = this.#answerer.value !== "list";
  }

  #showReading(reading: Reading | null, failure: string): void {
    byId("preview-failure", HTMLElement).textContent = failure;
    if (reading) {
      const { experts, evidence, mode } = reading.block;
      showExperts(byId("weights", HTMLElement), experts, (id) => this.#parts.catalog.nameOf(id));
      byId("evidence", HTMLElement).textContent = evidenceText(evidence, mode);
    }
    this.#parts.onReading(reading);
  }

  #showOutcome({ side }: Column, { tokens, ms, end, failure, block }: Outcome): void {
    const pace = tokens > 0 && ms > 0 ? `, ${count(Math.round((tokens / ms) * 1000), "token")} a second` : "";
    const state = end ? `; ${endings[end]}` : "…";
    byId(`${side}-facts`, HTMLElement).textContent = `${count(tokens, "token")}${pace}${state}`;
    byId(`${side}-failure`, HTMLElement).textContent = failure;
    if (side === "base") return;
    // The weights are the prompt's, so they are known before the answer tells them, and of a stopped one, too.
    const experts = block?.experts ?? this.#answered?.block.experts ?? [];
    byId("adapted-by", HTMLElement).textContent = expertsText(experts, (id) => this.#parts.catalog.nameOf(id));
  }
}
