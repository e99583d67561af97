/** What requests use, and who records it. */

/** A request that has reserved its tokens. Another object may settle it. */
export interface AdmittedRequest {
  requestId: string;
  tenant: string;
  /** Name of the ledger that admitted it. */
  ledger: string;
  /** True if its tenant has limits, and so the ledger holds a reservation. */
  isLimited: boolean;
}

/** Takes what requests used, to count it with their ledgers and to report it (settlements.ts). */
export interface UseRecorder {
  /** Ends a request; without use it only frees what was reserved. Resolves when it is counted, or kept for another try. */
  record(request: AdmittedRequest, consumed: readonly Consumption[]): Promise<void>;
}

export type ReportUse = (tenant: string, consumed: readonly Consumption[]) => void;

export interface Consumption {
  model: string;
  /** null for the base alone. */
  centroid: string | null;
  requests: number;
  promptTokens: number;
  completionTokens: number;
}

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
