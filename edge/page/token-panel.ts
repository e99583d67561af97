/**
 * One token of an answer: its probability on both sides, the five likeliest at its place with both probabilities, each to go
 * on from, and where in the prompt the pointer could have copied it from.
 */
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { type Api, CallFailure, isAbort } from "./api.ts";
import type { Column, Place } from "./column.ts";
import type { Question } from "./duel.ts";
import { button, make, table } from "./elements.ts";
import { isText, scoreOfLast } from "./pieces.ts";
import type { Reading } from "./preview.ts";
import { changesProbabilities } from "./request.ts";
import { likelier, percent, readableToken } from "./words.ts";

/** What an answer was made of. */
export interface Made {
  question: Question;
  prompt: Pick<Reading, "tokens" | "spans">;
  /** Of the answer; 0 where the pointer had no part in it. */
  pointerWeight: number;
}

export interface TokenPanelParts {
  api: Api;
  element: HTMLElement;
  made(column: Column): Made | null;
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
    const { element, made } = this.#parts;
    const { column, choice, index } = place;
    const piece = column.pieces(choice)[index];
    const about = made(column);
    if (!piece || !about) return;
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
      ...(rows.length > 0 && changesProbabilities(about.question.sampling)
        ? [make("p", { class: "quiet" }, changedText)]
        : []),
      ...(column.side === "adapted" ? pointerParts(about, piece.tokens) : []),
    );
    const scores = await this.#scoreOthers(place, about, [...others.keys()], signal);
    if (signal.aborted) return;
    for (const [token, text] of others) text.data = probability(scores.get(token) ?? null);
  }

  /** The other side's log-probabilities of the alternatives, from one request that echoes each after the text before it. */
  async #scoreOthers(
    { column, choice, index }: Place,
    { question }: Made,
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

/** Says what can be known: the API tells the pointer's weight in the answer, not its part in one token. */
function pointerParts({ prompt, pointerWeight }: Made, tokens: readonly string[]): HTMLElement[] {
  if (pointerWeight === 0) {
    return [
      make("p", { class: "quiet" }, "The pointer, which copies tokens of the prompt, has no part in this answer."),
    ];
  }
  // The first token of a prompt follows nothing, so it cannot be copied.
  const places = prompt.tokens.map((token, i) => i > 0 && tokens.includes(token));
  const found = places.filter(Boolean).length;
  const share = `The pointer makes up to ${percent(pointerWeight)} of this answer. It copies tokens of the prompt, where the text before them is like the present one.`;
  if (found === 0)
    return [make("p", { class: "quiet" }, `${share} This token is not in the prompt, so the pointer gave it nothing.`)];
  const where = found === 1 ? "is in the prompt once, marked below" : `is in the prompt ${found} times, marked below`;
  const marked = prompt.spans.map(({ text, start, end }) =>
    places.slice(start, end).includes(true) ? make("mark", {}, text) : text,
  );
  return [
    make(
      "p",
      { class: "quiet" },
      `${share} This token ${where}; how much it copied from there, the API does not tell.`,
    ),
    make("p", { class: "prompt-tokens" }, ...marked),
  ];
}
