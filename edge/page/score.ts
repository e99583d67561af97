/** “Score my text”: what base, adapter and mixture give the later part of a text, having read the earlier. */
import type { ChameleonBlock, CompletionChoice, CompletionResponse } from "../../shared/contracts/responses.ts";
import { CallFailure } from "./api.ts";
import { drawExamples, fillAnswerers } from "./catalog-controls.ts";
import { examplesOf } from "./domains.ts";
import { byId, make, submitWith } from "./elements.ts";
import { contest, figures, legendRow, listExperts } from "./experts.ts";
import type { Page } from "./page.ts";
import { spansOf } from "./pieces.ts";
import { wishOf } from "./request.ts";
import { count, likelier, stepOf, surpriseBeside } from "./words.ts";

/** Fewer tokens say nothing. */
const minTokens = 16;
/** Fewer scored tokens are little to go by. */
const fewTokens = 64;
/** Examples long enough to be scored. */
const minExampleCharacters = 75;

interface Scored {
  id: string;
  name: string;
  /** Mean log-probability of a scored token. */
  mean: number;
}

export class Score {
  readonly #page: Page;
  readonly #form = byId("score-form", HTMLFormElement);
  readonly #text = byId("score-text", HTMLTextAreaElement);
  readonly #adapter = byId("score-adapter", HTMLSelectElement);
  readonly #result = byId("score-result");

  constructor(page: Page) {
    this.#page = page;
    const { catalog } = page;
    fillAnswerers(this.#adapter, catalog, [["nearest", "Of the nearest kind of text"]]);
    catalog.onChange(() => {
      const examples = examplesOf(catalog.centroids).filter(({ text }) => text.length >= minExampleCharacters);
      drawExamples(byId("score-examples"), examples, ({ text }) => {
        this.#text.value = text;
        this.#form.requestSubmit();
      });
    });
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#result.hidden = true;
    const failure = byId("score-failure");
    this.#result.hidden = !(await submitWith(this.#form, failure, () => this.#score(this.#text.value)));
  }

  async #score(text: string): Promise<void> {
    const { api, catalog } = this.#page;
    const readShare = Number(byId("score-read", HTMLSelectElement).value);
    if (text.trim() === "") throw new CallFailure("Paste a text first.");
    this.#page.sent("score", text);
    const scoring = { prompt: text, max_tokens: 0, echo: true, logprobs: 0 };
    const ask = (wish: object) => api.json<CompletionResponse>("/v1/completions", { ...scoring, ...wish });
    const base = await ask({ model: catalog.baseModel });
    const total = base.usage!.prompt_tokens;
    if (total < minTokens)
      throw new CallFailure(`The text has ${count(total, "token")}; it takes ${minTokens} or more.`);
    const read = Math.max(1, Math.round(total * readShare));
    const by = (adapter: string) => ask(wishOf(adapter, read));
    const [alone, mixture] = await Promise.all([by(this.#adapter.value), by("auto")]);
    const one = (id: string, name: string, answer: CompletionResponse) => ({ id, name, mean: meanFrom(answer, read) });
    const [adapterId] = alone.choices[0].chameleon?.experts?.filter(({ id }) => id !== "base") ?? [];
    const all = [
      one("base", "Base alone", base),
      one("adapter", `Adapter alone: ${adapterId ? catalog.nameOf(adapterId.id) : "off, so the base"}`, alone),
      one("mixture", "Mixture, as it is served", mixture),
    ];
    this.#show(all, { read, total }, mixture.choices[0]);
  }

  #show(all: readonly Scored[], { read, total }: { read: number; total: number }, mixture: CompletionChoice): void {
    const [base] = all;
    const highest = Math.max(...all.map(({ mean }) => Math.exp(-mean)));
    const bars = all.map(({ id, name, mean }) => {
      const figure = id === "base" ? "the measure for the others" : surpriseBeside(mean - base.mean);
      return { id, name, figure, share: Math.exp(-mean) / highest };
    });
    const weights = make("ul", { class: "weights-list" });
    const { experts } = mixture.chameleon as ChameleonBlock;
    listExperts(weights, experts, (id) => this.#page.catalog.nameOf(id));
    const scored = total - read;
    const caution = scored < fewTokens ? " That is little text: take it as a hint." : "";
    this.#result.replaceChildren(
      contest(bars),
      make("p", { class: "quiet" }, `${count(read, "token")} were read, the ${scored} after them scored.${caution}`),
      make("h3", {}, "Token by token, what was read in grey"),
      scoredText(mixture, read),
      legendRow(),
      make("h3", {}, "What the mixture was made of"),
      weights,
      figures(all),
    );
  }
}

/** Mean log-probability of the tokens from `read` on. */
function meanFrom({ choices: [{ logprobs }] }: CompletionResponse, read: number): number {
  const scored = logprobs!.token_logprobs.slice(read);
  return scored.reduce<number>((sum, logprob) => sum + logprob!, 0) / scored.length;
}

/** The text as tokens, the scored ones coloured. */
function scoredText(mixture: CompletionChoice, read: number): HTMLElement {
  // The first token has no score, so it is not compared.
  const compared = mixture.chameleon?.compare?.tokens ?? [];
  const shown = spansOf(mixture).map(({ text, start, end }) => {
    if (start < read) return make("span", { class: "read" }, text);
    const scored = compared.slice(start - 1, end - 1);
    const difference = scored.reduce((sum, { logprob, base_logprob }) => sum + logprob - base_logprob, 0);
    const title = likelier(difference, "the mixture", "the base");
    return make("span", { "data-step": stepOf(difference), title }, text);
  });
  return make("p", { class: "scored" }, ...shown);
}
