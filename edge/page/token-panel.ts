/** One token of an answer: its probability on both sides, where it came from, and the five likeliest at its place, each to continue from. */
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { type Api, CallFailure, isAbort } from "./api.ts";
import type { Question } from "./duel.ts";
import { button, make, table } from "./elements.ts";
import { tokenNodes, type UploadedTexts } from "./passages.ts";
import { isText, type Side, scoreOfLast } from "./pieces.ts";
import type { Place, TokenText } from "./token-text.ts";
import { probabilityText, readableToken } from "./words.ts";

export interface TokenPanelParts {
  api: Api;
  element: HTMLElement;
  texts: UploadedTexts;
  /** What the answers were asked. */
  question(): Question | null;
  /** The fields that make a side answer. */
  wish(side: Side, question: Question): object;
  onContinue(side: Side, place: Place, token: string): void;
}

const caption = "The five likeliest tokens here; penalties and biases count for this side alone";

export class TokenPanel {
  readonly #parts: TokenPanelParts;
  #asking = new AbortController();

  constructor(parts: TokenPanelParts) {
    this.#parts = parts;
  }

  /** Tells of a token; where it is chosen, of its alternatives, too. */
  async show(side: Side, answer: TokenText, place: Place, isChosen: boolean): Promise<void> {
    this.#asking.abort();
    this.#asking = new AbortController();
    const { signal } = this.#asking;
    const { element, texts, onContinue } = this.#parts;
    const piece = answer.pieces(place.choice)[place.index];
    const question = this.#parts.question();
    if (!piece || !question) return;
    element.replaceChildren(...tokenNodes(piece, texts));
    if (!isChosen || piece.alternatives.length === 0) return;
    const others = new Map<string, Text>();
    const rows = piece.alternatives.map(([token, logprob]) => {
      const other = document.createTextNode("…");
      others.set(token, other);
      const own = probabilityText(logprob);
      const [adapted, base] = side === "adapted" ? [own, other] : [other, own];
      const name = readableToken(token);
      const label = { "aria-label": `Continue with ${name}` };
      const go = isText(token) ? button("Continue", () => onContinue(side, place, token), label) : "";
      return [make("code", {}, name), adapted, base, go];
    });
    element.append(table(caption, ["Token", "Adapted", "Base", "From there"], rows));
    const before = answer.pieces(place.choice).slice(0, place.index);
    const otherSide = side === "base" ? "adapted" : "base";
    const written = { tokens: before.flatMap(({ tokens }) => tokens), text: before.map(({ text }) => text).join("") };
    const scores = await this.#score(otherSide, question, written, [...others.keys()], signal);
    if (signal.aborted) return;
    for (const [token, text] of others) text.data = probabilityText(scores.get(token) ?? null);
  }

  /** A side's log-probabilities of alternatives, from one request that echoes each after the text before it. */
  async #score(
    side: Side,
    question: Question,
    written: { tokens: string[]; text: string },
    tokens: string[],
    signal: AbortSignal,
  ): Promise<Map<string, number | null>> {
    const asked = tokens.filter(isText);
    if (asked.length === 0) return new Map();
    const prompt = asked.map((token) => question.prompt + written.text + token);
    const body = { prompt, max_tokens: 0, echo: true, logprobs: 0, ...this.#parts.wish(side, question) };
    try {
      const { choices } = await this.#parts.api.json<CompletionResponse>("/v1/completions", body, { signal });
      return new Map(asked.map((token, i) => [token, scoreOfLast(choices[i], [...written.tokens, token])]));
    } catch (error) {
      if (isAbort(error) || error instanceof CallFailure) return new Map();
      throw error;
    }
  }
}
