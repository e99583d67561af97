/** What requests used. */
export interface Consumption {
  model: string;
  /** null for the base alone. */
  centroid: string | null;
  requests: number;
  promptTokens: number;
  completionTokens: number;
}

/**
 * Milliseconds for which an object gathers use that no limit waits for, before it is counted and reported: each call and each
 * commit costs about as much CPU as a short answer. An object that is lost meanwhile loses it.
 */
export const gatherUseMs = 250;

/** `one`, with what `before` it used of the same. */
export function inAll<T extends Consumption>(one: T, before: T | undefined): T {
  if (!before) return one;
  return {
    ...one,
    requests: one.requests + before.requests,
    promptTokens: one.promptTokens + before.promptTokens,
    completionTokens: one.completionTokens + before.completionTokens,
  };
}

export function tokensOf(consumed: readonly Consumption[]): number {
  return consumed.reduce((total, { promptTokens, completionTokens }) => total + promptTokens + completionTokens, 0);
}
