/** Base and adapted answers side by side: the same prompt, sampling and seed. */
import type { ChameleonBlock, CompletionResponse } from "../../shared/contracts/responses.ts";
import { type Api, failureText, isAbort } from "./api.ts";
import { make } from "./elements.ts";
import { alternativesShown, type Piece, piecesOf, type Side } from "./pieces.ts";
import { type Sampling, wishOf } from "./request.ts";
import { tokenText } from "./token-text.ts";

export interface Question {
  prompt: string;
  adapter: string;
  sampling: Sampling;
}

export interface Outcome {
  tokens: number;
  ms: number;
  end: "stop" | "length" | "stopped" | "failed" | null;
  failure: string;
  /** null until the last chunk, and for a stopped answer. */
  block: ChameleonBlock | null;
}

export interface DuelParts {
  api: Api;
  elements: Record<Side, HTMLElement>;
  baseModel(): string;
  now(): number;
  onTell(piece: Piece, isChosen: boolean): void;
  onOutcome(side: Side, outcome: Outcome): void;
  onRunning(isRunning: boolean): void;
}

export class Duel {
  readonly #parts: DuelParts;
  readonly #add: Record<Side, (element: HTMLElement, piece: Piece) => void>;
  #running: AbortController | null = null;

  constructor(parts: DuelParts) {
    this.#parts = parts;
    const { base, adapted } = parts.elements;
    this.#add = { base: tokenText(base, parts.onTell), adapted: tokenText(adapted, parts.onTell) };
  }

  get isRunning(): boolean {
    return this.#running !== null;
  }

  stop(): void {
    this.#running?.abort();
  }

  async run(question: Question): Promise<void> {
    this.stop();
    const running = new AbortController();
    this.#running = running;
    this.#parts.onRunning(true);
    await Promise.all((["base", "adapted"] as const).map((side) => this.#write(side, question, running.signal)));
    if (this.#running !== running) return;
    this.#running = null;
    this.#parts.onRunning(false);
  }

  async #write(side: Side, { prompt, adapter, sampling }: Question, signal: AbortSignal): Promise<void> {
    const { now, api, elements, onOutcome, baseModel } = this.#parts;
    const answer = make("p", { class: "answer" });
    elements[side].replaceChildren(answer);
    const outcome: Outcome = { tokens: 0, ms: 0, end: null, failure: "", block: null };
    const startedMs = now();
    const report = (part: Partial<Outcome>) => onOutcome(side, Object.assign(outcome, part, { ms: now() - startedMs }));
    const wish =
      side === "base" ? { model: baseModel(), chameleon: {} } : wishOf(adapter, null, { compare: true, sources: true });
    const body = { prompt, ...sampling, logprobs: alternativesShown, ...wish };
    report({});
    try {
      for await (const chunk of api.chunks<CompletionResponse>("/v1/completions", body, signal)) {
        const [choice] = chunk.choices;
        for (const piece of piecesOf(choice, side)) {
          this.#add[side](answer, piece);
          report({ tokens: outcome.tokens + piece.tokens });
        }
        if (choice.finish_reason) report({ end: choice.finish_reason, block: choice.chameleon as ChameleonBlock });
      }
    } catch (error) {
      // Another run has begun, and the page shows its answers.
      if (this.#running?.signal !== signal) return;
      if (isAbort(error)) report({ end: "stopped" });
      else report({ end: "failed", failure: failureText(error) });
    }
  }
}
