/** The use of requests, and the interface that records it. */

/** An admitted request, which another isolate may settle. */
export interface AdmittedRequest {
  requestId: string;
  tenant: string;
  /** Milliseconds since 1970. */
  beganMs: number;
  /** The tenant has limits, so the ledger holds a reservation. */
  isLimited: boolean;
  /** Requests with the same key are charged once (ledger-store.ts). */
  idempotencyKey?: string | undefined;
}

export interface Settlement {
  request: AdmittedRequest;
  consumed: readonly Consumption[];
}

/** Counts and reports use (settlements.ts). */
export interface UseRecorder {
  /** Resolves when the use is counted, or stored for another try. Without use, only frees the reservation. */
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

/** The use of a request that adds documents, counted when their memory is built or cannot be. */
export interface Charge {
  request: AdmittedRequest;
  consumed: Consumption;
  /** Counted if it cannot be built: the use of examples fitted by the same request; null: none. */
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
