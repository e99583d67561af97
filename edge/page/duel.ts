/** Base and adapted side by side: the same prompt, the same sampling, the same seed; and what is known of each answer. */
import type { ChameleonBlock, CompletionResponse } from "../../shared/contracts/responses.ts";
import { type Api, failureText, isAbort } from "./api.ts";
import { make } from "./elements.ts";
import { fillScores, piecesOf, type Side } from "./pieces.ts";
import { type Sampling, wishOf } from "./request.ts";
import { type Place, TokenText } from "./token-text.ts";

/** What both sides answer. */
export interface Question {
  prompt: string;
  /** Tokens of the prompt: by so many the answer is weighed, also where it goes on with its own text. */
  promptTokens: number;
  adapter: string;
  sampling: Sampling;
}

/** What is told of one side's answer. */
export interface Outcome {
  tokens: number;
  ms: number;
  /** null while it is written. */
  end: "stop" | "length" | "stopped" | "failed" | null;
  failure: string;
  /** Comes with the end; a stopped answer has none. */
  block: ChameleonBlock | null;
}

export interface DuelParts {
  api: Api;
  elements: Record<Side, HTMLElement>;
  baseModel(): string;
  /** A clock in milliseconds. */
  now(): number;
  onTell(side: Side, answer: TokenText, place: Place, isChosen: boolean): void;
  onOutcome(side: Side, outcome: Outcome): void;
}

export class Duel {
  readonly #parts: DuelParts;
  readonly #answers: Record<Side, TokenText>;
  #running: AbortController | null = null;
  /** Aborts the scoring request. A run has at most one: its stream lacks the probabilities of one answer only. */
  #scoring: AbortController | null = null;
  #question: Question | null = null;

  constructor(parts: DuelParts) {
    this.#parts = parts;
    const answer = (side: Side): TokenText => {
      const container = parts.elements[side];
      const begin = (choice: number) => {
        const text = make("p", { class: "answer" });
        if (choice > 0) container.append(make("h4", {}, `Choice ${choice + 1}`));
        container.append(text);
        return text;
      };
      const text: TokenText = new TokenText(container, begin, (place, isChosen) =>
        parts.onTell(side, text, place, isChosen),
      );
      return text;
    };
    this.#answers = { base: answer("base"), adapted: answer("adapted") };
  }

  get question(): Question | null {
    return this.#question;
  }

  get isRunning(): boolean {
    return this.#running !== null;
  }

  /** Stops writing and scoring. The text written so far is then scored, which a second call stops. */
  stop(): void {
    this.#scoring?.abort();
    this.#running?.abort();
  }

  /** Writes both answers. Resolves when both have ended, however. */
  async run(question: Question): Promise<void> {
    this.stop();
    this.#question = question;
    const sides = ["base", "adapted"] as const;
    for (const side of sides) this.#answers[side].clear();
    const { prompt } = question;
    await this.#together(sides, (side, signal) => this.#write(side, question, { prompt, choice: null }, signal));
  }

  /** Writes one answer anew from `place` on, beginning with `token` there. What answers is weighed by the prompt alone. */
  async continueFrom(side: Side, { choice, index }: Place, token: string): Promise<void> {
    const question = this.#question;
    if (!question) return;
    this.stop();
    const answer = this.#answers[side];
    const { alternatives } = answer.pieces(choice)[index];
    const logprob = alternatives.find(([text]) => text === token)?.[1] ?? null;
    answer.cut(choice, index);
    const kept = answer.text(choice);
    const unknown = { adapted: null, base: null, source: null };
    answer.add(choice, { ...unknown, text: token, tokens: [token], [side]: logprob, alternatives });
    const prompt = question.prompt + kept + token;
    await this.#together([side], (one, signal) => this.#write(one, question, { prompt, choice }, signal));
  }

  /** The fields that make a side answer `question`. */
  wish(side: Side, { adapter, sampling, promptTokens }: Question, more?: object): object {
    if (side === "base") return { model: this.#parts.baseModel(), chameleon: {} };
    return wishOf(adapter, sampling.evidenceTokens ?? promptTokens, more);
  }

  async #together(sides: readonly Side[], write: (side: Side, signal: AbortSignal) => Promise<void>): Promise<void> {
    const running = new AbortController();
    this.#running = running;
    try {
      await Promise.all(sides.map((side) => write(side, running.signal)));
    } finally {
      if (this.#running === running) this.#running = null;
    }
  }

  async #write(
    side: Side,
    question: Question,
    { prompt, choice }: { prompt: string; choice: number | null },
    signal: AbortSignal,
  ): Promise<void> {
    const { now, api, onOutcome } = this.#parts;
    const outcome: Outcome = { tokens: 0, ms: 0, end: null, failure: "", block: null };
    const startedMs = now();
    const report = (part: Partial<Outcome>) => onOutcome(side, Object.assign(outcome, part, { ms: now() - startedMs }));
    const fields = { ...question.sampling.fields, ...(choice !== null && { n: 1 }) };
    const wish = this.wish(side, question, { compare: true, sources: true });
    const body = { prompt, ...fields, logprobs: 5, ...wish };
    report({});
    try {
      for await (const chunk of api.chunks<CompletionResponse>("/v1/completions", body, signal)) {
        for (const one of chunk.choices) {
          for (const piece of piecesOf(one, side)) {
            this.#answers[side].add(choice ?? one.index, piece);
            report({ tokens: outcome.tokens + Math.max(piece.tokens.length, 1) });
          }
          if (one.finish_reason) report({ end: one.finish_reason, block: one.chameleon as ChameleonBlock });
        }
      }
    } catch (error) {
      // Another run has begun meanwhile.
      if (this.#running?.signal !== signal) return;
      if (isAbort(error)) report({ end: "stopped" });
      else report({ end: "failed", failure: failureText(error) });
    }
    if (side === "base" || choice !== null) await this.#scoreByBoth(this.#answers[side], question, signal);
  }

  /** Asks what both sides think of an answer's tokens, where the stream did not tell. */
  async #scoreByBoth(answer: TokenText, question: Question, signal: AbortSignal): Promise<void> {
    const choices = answer.choices.filter((one) => answer.text(one) !== "");
    if (choices.length === 0 || this.#running?.signal !== signal) return;
    const scoring = new AbortController();
    this.#scoring = scoring;
    const prompt = choices.map((one) => question.prompt + answer.text(one));
    const body = { prompt, max_tokens: 0, echo: true, logprobs: 0, ...this.wish("adapted", question) };
    try {
      const options = { signal: scoring.signal };
      const scored = await this.#parts.api.json<CompletionResponse>("/v1/completions", body, options);
      if (scoring.signal.aborted) return;
      for (const [i, choice] of choices.entries()) {
        fillScores(answer.pieces(choice), scored.choices[i].chameleon?.compare?.tokens ?? []);
        answer.repaint(choice);
      }
    } catch {
      // Refused, stopped or malformed: without colours the answer is still an answer.
    }
  }
}
