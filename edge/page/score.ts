/** “Score my text”: what base, adapter and mixture give the later part of a text, having read the earlier. */
import type { ChameleonBlock, CompletionResponse } from "../../shared/contracts/responses.ts";
import { type Api, CallFailure } from "./api.ts";
import type { Catalog } from "./catalog.ts";
import { fillAnswerers } from "./catalog-controls.ts";
import { byId, make, submitWith, table } from "./elements.ts";
import { legendRow, showExperts } from "./experts.ts";
import { spansOf } from "./pieces.ts";
import { count, likelier, perplexityChange, signedNats, stepOf } from "./words.ts";

/** Fewer tokens say nothing. */
const minTokens = 16;
/** Fewer scored tokens are little to go by. */
const fewTokens = 64;

export interface ScoreParts {
  api: Api;
  catalog: Catalog;
  /** The prompt of “Write”. */
  prompt(): string;
}

interface Contestant {
  id: string;
  name: string;
  /** Mean log-probability of a scored token. */
  mean: number;
}

export class Score {
  readonly #parts: ScoreParts;
  readonly #form = byId("score-form", HTMLFormElement);
  readonly #text = byId("score-text", HTMLTextAreaElement);
  readonly #adapter = byId("score-adapter", HTMLSelectElement);
  readonly #result = byId("score-result", HTMLElement);

  constructor(parts: ScoreParts) {
    this.#parts = parts;
    fillAnswerers(this.#adapter, parts.catalog, [["nearest", "The nearest domain's"]]);
    byId("score-prompt", HTMLButtonElement).addEventListener("click", () => {
      this.#text.value = parts.prompt();
    });
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#run();
    });
  }

  async #run(): Promise<void> {
    const failure = byId("score-failure", HTMLElement);
    if (!(await submitWith(this.#form, failure, () => this.#score(this.#text.value)))) this.#result.hidden = true;
  }

  async #score(text: string): Promise<void> {
    const { api, catalog } = this.#parts;
    const readShare = Number(byId("score-read", HTMLSelectElement).value);
    if (text.trim() === "") throw new CallFailure("Paste a text first.");
    const ask = (wish: object) =>
      api.json<CompletionResponse>("/v1/completions", {
        prompt: text,
        max_tokens: 0,
        echo: true,
        logprobs: 0,
        ...wish,
      });
    const base = await ask({ model: catalog.baseModel });
    const total = base.usage!.prompt_tokens;
    if (total < minTokens)
      throw new CallFailure(`The text has ${count(total, "token")}; it takes ${minTokens} or more.`);
    const read = Math.max(1, Math.round(total * readShare));
    const by = (experts: unknown) => ask({ chameleon: { adapter: experts, evidence_tokens: read, compare: true } });
    const [alone, mixture] = await Promise.all([by(this.#adapter.value), by("auto")]);
    const one = (id: string, name: string, answer: CompletionResponse) => ({ id, name, mean: meanFrom(answer, read) });
    const [adapterId] = alone.choices[0].chameleon?.experts?.filter(({ id }) => id !== "base") ?? [];
    const baseOnly: Contestant = one("base", "Base alone", base);
    const others: Contestant[] = [
      one("adapter", `Adapter alone: ${adapterId ? catalog.nameOf(adapterId.id) : "off, so the base"}`, alone),
      one("mixture", "Mixture, as it is served", mixture),
    ];
    this.#show({ base: baseOnly, others, read, total }, mixture);
  }

  #show(
    { base, others, read, total }: { base: Contestant; others: Contestant[]; read: number; total: number },
    mixture: CompletionResponse,
  ): void {
    const all = [base, ...others];
    const highest = Math.max(...all.map(({ mean }) => Math.exp(-mean)));
    const bars = all.map(({ id, name, mean }) => {
      const bar = make("i", { class: "contest-bar", "aria-hidden": "true" });
      bar.style.width = `${(100 * Math.exp(-mean)) / highest}%`;
      const figure = id === "base" ? `perplexity ${Math.exp(-mean).toFixed(1)}` : perplexityChange(mean - base.mean);
      return make("li", { "data-contestant": id }, make("span", {}, name), make("b", {}, figure), bar);
    });
    const weights = make("div");
    const block = mixture.choices[0].chameleon as ChameleonBlock;
    showExperts(weights, block.experts, (id) => this.#parts.catalog.nameOf(id));
    const scored = total - read;
    const caution = scored < fewTokens ? ` That is little text: take it as a hint.` : "";
    this.#result.hidden = false;
    this.#result.replaceChildren(
      make("p", {}, `The first ${count(read, "token")} were read; the ${scored} after them were scored.${caution}`),
      make("ul", { class: "contest" }, ...bars),
      make("h3", {}, "What the mixture was made of"),
      weights,
      make("h3", {}, "Token by token"),
      make("p", { class: "quiet" }, "In grey what was read, in colours what was scored."),
      scoredText(mixture.choices[0], read),
      legendRow(),
      make("details", {}, make("summary", {}, "The figures in nats"), make("p", {}, natsText), natsTable(all, base)),
    );
  }
}

const natsText =
  "A nat measures surprise: the negative natural logarithm of a token's probability. Perplexity is e to the mean surprise, the number of equally likely tokens that would surprise as much. A gain of 0.69 nats a token halves it.";

/** Mean log-probability of the tokens from `read` on. */
function meanFrom({ choices: [{ logprobs }] }: CompletionResponse, read: number): number {
  const scored = logprobs!.token_logprobs.slice(read);
  return scored.reduce<number>((sum, logprob) => sum + logprob!, 0) / scored.length;
}

function natsTable(all: readonly Contestant[], base: Contestant): HTMLElement {
  const rows = all.map(({ name, mean }) => [
    name,
    (-mean).toFixed(3),
    Math.exp(-mean).toFixed(1),
    signedNats(mean - base.mean),
  ]);
  return table(
    "Mean over the scored tokens",
    ["Scored by", "Surprise, nats", "Perplexity", "Gain over the base, nats"],
    rows,
  );
}

/** The text as tokens, the scored ones coloured. */
function scoredText(choice: CompletionResponse["choices"][number], read: number): HTMLElement {
  // The first token has no score, so it is not compared.
  const compared = choice.chameleon?.compare?.tokens ?? [];
  const shown = spansOf(choice).map(({ text, start, end }) => {
    if (start < read) return make("span", { class: "read" }, text);
    const scored = compared.slice(start - 1, end - 1);
    const difference = scored.reduce((sum, { logprob, base_logprob }) => sum + logprob - base_logprob, 0);
    const title = likelier(difference, "the mixture", "the base");
    return make("span", { "data-step": stepOf(difference), title }, text);
  });
  return make("p", { class: "scored" }, ...shown);
}
