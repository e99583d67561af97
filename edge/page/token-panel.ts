/** One token of an answer: its probability on both sides, and the five likeliest at its place, each to go on from. */
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { type Api, CallFailure, isAbort } from "./api.ts";
import type { Column, Place } from "./column.ts";
import type { Question } from "./duel.ts";
import { button, make, table } from "./elements.ts";
import { isText, scoreOfLast } from "./pieces.ts";
import { changesProbabilities } from "./request.ts";
import { likelier, percent, readableToken } from "./words.ts";

export interface TokenPanelParts {
  api: Api;
  element: HTMLElement;
  /** What the column's answer was asked. */
  questionOf(column: Column): Question | null;
  /** The fields that make the other side than this one answer. */
  otherWish(column: Column, question: Question): object;
  onContinue(place: Place, token: string): void;
}

const unknown = "–";
const changedText =
  "Penalties and biases are in this side's figures for the five tokens; the other side's are without them.";

export class TokenPanel {
  readonly #parts: TokenPanelParts;
  #asking = new AbortController();

  constructor(parts: TokenPanelParts) {
    this.#parts = parts;
  }

  async show(place: Place): Promise<void> {
    this.#asking.abort();
    this.#asking = new AbortController();
    const { signal } = this.#asking;
    const { element, questionOf } = this.#parts;
    const { column, choice, index } = place;
    const piece = column.pieces(choice)[index];
    const question = questionOf(column);
    if (!piece || !question) return;
    const others = new Map<string, Text>();
    const rows = piece.alternatives.map(([token, logprob]) => {
      const other = document.createTextNode("…");
      others.set(token, other);
      const own = probability(logprob);
      const [adapted, base] = column.side === "adapted" ? [own, other] : [other, own];
      const name = readableToken(token);
      const go = isText(token)
        ? button("Continue", () => this.#parts.onContinue(place, token), {
            "aria-label": `Continue with ${name}`,
          })
        : "";
      return [make("code", {}, name), adapted, base, go];
    });
    element.replaceChildren(
      make("h3", {}, "Token ", make("code", {}, readableToken(piece.text))),
      make("p", { id: "token-sentence" }, sentenceOf(column, piece.logprob, piece.other)),
      ...(rows.length > 0
        ? [table("The five likeliest tokens here", ["Token", "Adapted", "Base", "From there"], rows)]
        : []),
      ...(rows.length > 0 && changesProbabilities(question.sampling)
        ? [make("p", { class: "quiet" }, changedText)]
        : []),
    );
    const scores = await this.#scoreOthers(place, question, [...others.keys()], signal);
    if (signal.aborted) return;
    for (const [token, text] of others) text.data = probability(scores.get(token) ?? null);
  }

  /** The other side's log-probabilities of the alternatives, from one request that echoes each after the text before it. */
  async #scoreOthers(
    { column, choice, index }: Place,
    question: Question,
    tokens: string[],
    signal: AbortSignal,
  ): Promise<Map<string, number | null>> {
    const before = column.pieces(choice).slice(0, index);
    const prefix = question.prompt + before.map(({ text }) => text).join("");
    const asked = tokens.filter(isText);
    if (asked.length === 0) return new Map();
    const wish = this.#parts.otherWish(column, question);
    const body = { prompt: asked.map((token) => prefix + token), max_tokens: 0, echo: true, logprobs: 0, ...wish };
    try {
      const { choices } = await this.#parts.api.json<CompletionResponse>("/v1/completions", body, { signal });
      const written = before.flatMap((piece) => piece.tokens);
      return new Map(asked.map((token, i) => [token, scoreOfLast(choices[i], [...written, token])]));
    } catch (error) {
      if (isAbort(error) || error instanceof CallFailure) return new Map();
      throw error;
    }
  }
}

function probability(logprob: number | null): string {
  return logprob === null ? unknown : percent(Math.exp(logprob));
}

function sentenceOf(column: Column, logprob: number | null, other: number | null): string {
  const [adapted, base] = column.side === "adapted" ? [logprob, other] : [other, logprob];
  const both = `Adapted ${probability(adapted)}, base ${probability(base)}`;
  if (adapted === null || base === null) return `${both}.`;
  return `${both}: ${likelier(adapted - base, "the adapters", "the base")}.`;
}
