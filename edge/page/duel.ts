/** Base and adapted side by side: the same prompt, the same sampling, the same seed; and what is known of each answer. */
import type { ChameleonBlock, CompletionResponse } from "../../shared/contracts/responses.ts";
import { type Api, failureText, isAbort } from "./api.ts";
import { Column, type Place } from "./column.ts";
import { fillScores, piecesOf } from "./pieces.ts";
import { type Answerer, type Sampling, wishOf } from "./request.ts";

/** What both sides answer. */
export interface Question {
  prompt: string;
  /** Tokens of the prompt: by so many the answer is weighed, also where it goes on with its own text. */
  promptTokens: number;
  answerer: Answerer;
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
  base: HTMLElement;
  adapted: HTMLElement;
  baseModel(): string;
  /** A clock in milliseconds. */
  now(): number;
  onSelect(place: Place): void;
  onOutcome(column: Column, outcome: Outcome): void;
}

export class Duel {
  readonly #parts: DuelParts;
  readonly base: Column;
  readonly adapted: Column;
  #running: AbortController | null = null;
  /** Aborts the scoring request. A run has at most one: its stream lacks the probabilities of one answer only. */
  #scoring: AbortController | null = null;
  #question: Question | null = null;

  constructor(parts: DuelParts) {
    this.#parts = parts;
    this.base = new Column(parts.base, "base", parts.onSelect);
    this.adapted = new Column(parts.adapted, "adapted", parts.onSelect);
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
    const columns = [this.base, this.adapted];
    for (const column of columns) column.clear();
    const { prompt } = question;
    await this.#together(columns, (column, signal) => this.#write(column, question, { prompt, choice: null }, signal));
  }

  /** Writes one answer anew from `place` on, beginning with `token` there. What answers is weighed by the prompt alone. */
  async continueFrom({ column, choice, index }: Place, token: string): Promise<void> {
    const question = this.#question;
    if (!question) return;
    this.stop();
    const { alternatives } = column.pieces(choice)[index];
    const logprob = alternatives.find(([text]) => text === token)?.[1] ?? null;
    column.cut(choice, index);
    const kept = column.text(choice);
    column.add(choice, { text: token, tokens: [token], logprob, other: null, alternatives });
    const prompt = question.prompt + kept + token;
    await this.#together([column], (one, signal) => this.#write(one, question, { prompt, choice }, signal));
  }

  /** The fields that make this side answer `question`. */
  wish(column: Column, { answerer, sampling, promptTokens }: Question): object {
    if (column.side === "base") return { model: this.#parts.baseModel(), chameleon: {} };
    return wishOf(answerer, sampling.evidenceTokens ?? promptTokens);
  }

  async #together(columns: Column[], write: (column: Column, signal: AbortSignal) => Promise<void>): Promise<void> {
    const running = new AbortController();
    this.#running = running;
    try {
      await Promise.all(columns.map((column) => write(column, running.signal)));
    } finally {
      if (this.#running === running) this.#running = null;
    }
  }

  async #write(
    column: Column,
    question: Question,
    { prompt, choice }: { prompt: string; choice: number | null },
    signal: AbortSignal,
  ): Promise<void> {
    const { now, api, onOutcome } = this.#parts;
    const outcome: Outcome = { tokens: 0, ms: 0, end: null, failure: "", block: null };
    const startedMs = now();
    const report = (part: Partial<Outcome>) =>
      onOutcome(column, Object.assign(outcome, part, { ms: now() - startedMs }));
    const fields = { ...question.sampling.fields, ...(choice !== null && { n: 1 }) };
    const body = { prompt, ...fields, logprobs: 5, ...this.wish(column, question) };
    report({});
    try {
      for await (const chunk of api.chunks<CompletionResponse>("/v1/completions", body, signal)) {
        for (const one of chunk.choices) {
          for (const piece of piecesOf(one)) {
            column.add(choice ?? one.index, piece);
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
    if (column.side === "base" || choice !== null) await this.#scoreByBoth(column, question, signal);
  }

  /** Asks what both sides think of an answer's tokens, where the stream did not tell. */
  async #scoreByBoth(column: Column, question: Question, signal: AbortSignal): Promise<void> {
    const choices = column.choices.filter((one) => column.text(one) !== "");
    if (choices.length === 0 || this.#running?.signal !== signal) return;
    const scoring = new AbortController();
    this.#scoring = scoring;
    const { sampling, answerer, promptTokens } = question;
    const prompts = choices.map((one) => question.prompt + column.text(one));
    const wish = wishOf(answerer, sampling.evidenceTokens ?? promptTokens);
    const body = { prompt: prompts, max_tokens: 0, echo: true, logprobs: 0, ...wish };
    try {
      const scored = await this.#parts.api.json<CompletionResponse>("/v1/completions", body, {
        signal: scoring.signal,
      });
      if (scoring.signal.aborted) return;
      for (const [i, choice] of choices.entries()) {
        const tokens = scored.choices[i].chameleon?.compare?.tokens ?? [];
        fillScores(column.pieces(choice), tokens, column.side === "base" ? "base_logprob" : "logprob");
        column.repaint(choice);
      }
    } catch {
      // Refused, stopped or malformed: without colours the answer is still an answer.
    }
  }
}
