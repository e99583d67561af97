/** What a request may use, and what it has used so far, by the frames of its choices as they come. Pure. */

import type { Consumption } from "../tenants/consumption.ts";
import type { PlannedChoice } from "./plan.ts";

/** The tokens that a request may come to: each prompt once, and all that its choices may generate. */
export function mostTokens(choices: readonly PlannedChoice[]): number {
  const lengths = new Map(choices.map(({ prompt, sequence }) => [prompt, sequence.promptIds.length]));
  const prompts = lengths.values().reduce((sum, length) => sum + length, 0);
  return choices.reduce((sum, { sequence }) => sum + sequence.maxTokens, prompts);
}

export class TokenCount {
  readonly #choices: readonly PlannedChoice[];
  /** Tokens so far, by choice; a choice without tokens has no entry. */
  readonly #tokens = new Map<PlannedChoice, number>();

  constructor(choices: readonly PlannedChoice[]) {
    this.#choices = choices;
  }

  add(planned: PlannedChoice, tokens: number): void {
    this.#tokens.set(planned, (this.#tokens.get(planned) ?? 0) + tokens);
  }

  /** Every choice has had a part. */
  get haveAllBegun(): boolean {
    return this.#tokens.size === this.#choices.length;
  }

  /**
   * By the centroid whose adapter served; a mixture counts at the first of its adapters. `everyPrompt`: the caller ended the
   * request, so every prompt counts, as work on it may have begun; otherwise only prompts count that have a part.
   */
  consumed(model: string, everyPrompt: boolean): Consumption[] {
    const rows = new Map<string | null, Consumption>();
    const prompts = new Set<number>();
    for (const choice of this.#choices) {
      const tokens = this.#tokens.get(choice);
      if (tokens === undefined && !everyPrompt) continue;
      const { promptIds } = choice.sequence;
      const centroid = choice.assignment.adapter?.id ?? null;
      const row = rows.get(centroid) ?? { model, centroid, ...nothing };
      // A request that fell to several centroids counts at its first.
      const requests = rows.size === 0 ? 1 : row.requests;
      const promptTokens = row.promptTokens + (prompts.has(choice.prompt) ? 0 : promptIds.length);
      prompts.add(choice.prompt);
      rows.set(centroid, { ...row, requests, promptTokens, completionTokens: row.completionTokens + (tokens ?? 0) });
    }
    return [...rows.values()];
  }
}

const nothing = { requests: 0, promptTokens: 0, completionTokens: 0 };
