/** The use of requests, and the interface that records it. */

/** A request that was admitted. It may be settled in another isolate than the one that admitted it. */
export interface AdmittedRequest {
  requestId: string;
  tenant: string;
  /** When it began, in milliseconds since 1970. */
  beganMs: number;
  /** True if the tenant has limits, so that the ledger holds a reservation for the request. */
  isLimited: boolean;
  /** Requests with the same key are charged once (ledger-store.ts). */
  idempotencyKey?: string | undefined;
}

/** The use of an ended request. Without use, settling only frees the request's reservation. */
export interface Settlement {
  request: AdmittedRequest;
  consumed: readonly Consumption[];
}

/** Counts use with the ledgers and reports it (settlements.ts). */
export interface UseRecorder {
  /** Settles a request. Resolves when its use is counted, or stored for another try. */
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

/** The use of a request that adds documents, which is counted when their memory has been built or cannot be built. */
export interface Charge {
  request: AdmittedRequest;
  /** Counted if the memory is built. */
  consumed: Consumption;
  /** Counted if it cannot be built: the examples that were fitted in the same request; null: none. */
  otherwise: Consumption | null;
}

/** The sum of two uses of the same model and centroid. */
export function addUse<T extends Consumption>(one: T, before: T | undefined): T {
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
