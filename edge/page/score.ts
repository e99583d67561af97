/** “Score”: the perplexity of a text's later part under base, adapter and mixture, after they have read its beginning. */
import type { ChameleonBlock, CompletionChoice, CompletionResponse } from "../../shared/contracts/responses.ts";
import { CallFailure } from "./api.ts";
import { drawExamples, fillAnswerers } from "./catalog-controls.ts";
import { examplesOf } from "./domains.ts";
import { byId, make, onSubmit } from "./elements.ts";
import { contest, legendRow, listExperts } from "./experts.ts";
import type { Page } from "./page.ts";
import { spansOf } from "./pieces.ts";
import { wishOf } from "./request.ts";
import { count, likelier, stepOf, surpriseBeside } from "./words.ts";

const minTokens = 16;
/** A result from fewer scored tokens is called a hint. */
const fewTokens = 64;
/** Minimum characters of an example, so that it has at least `minTokens` tokens. */
const minExampleCharacters = 75;

interface Scored {
  id: string;
  name: string;
  mean: number;
}

export function startScore({ api, catalog, sent }: Page): void {
  const form = byId("score-form", HTMLFormElement);
  const input = byId("score-text", HTMLTextAreaElement);
  const adapter = byId("score-adapter", HTMLSelectElement);
  const result = byId("score-result");
  fillAnswerers(adapter, catalog, [["nearest", "Of the nearest kind of text"]]);
  catalog.onChange(() => {
    const examples = examplesOf(catalog.centroids).filter(({ text }) => text.length >= minExampleCharacters);
    drawExamples(byId("score-examples"), examples, ({ text }) => {
      input.value = text;
      form.requestSubmit();
    });
  });
  onSubmit(form, byId("score-failure"), result, async () => {
    const text = input.value;
    const readShare = Number(byId("score-read", HTMLSelectElement).value);
    if (text.trim() === "") throw new CallFailure("Paste a text first.");
    sent("score", text);
    const scoring = { prompt: text, max_tokens: 0, echo: true, logprobs: 0 };
    const ask = (wish: object) => api.json<CompletionResponse>("/v1/completions", { ...scoring, ...wish });
    const base = await ask({ model: catalog.baseModel });
    const total = base.usage!.prompt_tokens;
    if (total < minTokens)
      throw new CallFailure(`The text has ${count(total, "token")}; it takes ${minTokens} or more.`);
    const read = Math.max(1, Math.round(total * readShare));
    const by = (chosen: string) => ask(wishOf(chosen, read));
    const [alone, mixture] = await Promise.all([by(adapter.value), by("auto")]);
    const [expert] = alone.choices[0].chameleon?.experts?.filter(({ id }) => id !== "base") ?? [];
    const all: Scored[] = [
      { id: "base", name: "Base alone", mean: meanFrom(base, read) },
      {
        id: "adapter",
        name: `Adapter alone: ${expert ? catalog.nameOf(expert.id) : "off, so the base"}`,
        mean: meanFrom(alone, read),
      },
      { id: "mixture", name: "Mixture, as it is served", mean: meanFrom(mixture, read) },
    ];
    const weights = make("ul", { class: "weights-list" });
    const { experts } = mixture.choices[0].chameleon as ChameleonBlock;
    listExperts(weights, experts, (id) => catalog.nameOf(id));
    const scored = total - read;
    const caution = scored < fewTokens ? " That is little text: take it as a hint." : "";
    result.replaceChildren(
      contest(barsOf(all)),
      make("p", { class: "quiet" }, `${count(read, "token")} were read, the ${scored} after them scored.${caution}`),
      make("h3", {}, "Token by token, what was read in grey"),
      scoredText(mixture.choices[0], read),
      legendRow(),
      make("h3", {}, "What the mixture was made of"),
      weights,
    );
  });
}

function barsOf(all: readonly Scored[]) {
  const perplexities = all.map(({ mean }) => Math.exp(-mean));
  const highest = Math.max(...perplexities);
  return all.map(({ id, name, mean }, i) => ({
    ...{ id, share: perplexities[i] / highest },
    name: `${name} (perplexity ${perplexities[i].toFixed(1)})`,
    figure: id === "base" ? "the measure for the others" : surpriseBeside(mean - all[0].mean),
  }));
}

function meanFrom({ choices: [{ logprobs }] }: CompletionResponse, read: number): number {
  const scored = logprobs!.token_logprobs.slice(read);
  return scored.reduce<number>((sum, logprob) => sum + logprob!, 0) / scored.length;
}

function scoredText(mixture: CompletionChoice, read: number): HTMLElement {
  // The first token has no score, so the list of compared tokens begins with the second.
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
