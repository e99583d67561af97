/** The use of requests, and the interface that counts it. */

/** An admitted request. Another isolate than the one that admitted the request may settle it. */
export interface AdmittedRequest {
  requestId: string;
  tenant: string;
  /** Time at which the request began, in milliseconds since 1970. */
  beganMs: number;
  /** Whether the tenant has limits. If so, the ledger holds a reservation. */
  isLimited: boolean;
  /** Requests with the same idempotency key are charged once (ledger-store.ts). */
  idempotencyKey?: string | undefined;
}

export interface Settlement {
  request: AdmittedRequest;
  consumed: readonly Consumption[];
}

/** Counts the use of requests, and reports it (settlements.ts). */
export interface UseRecorder {
  /** Resolves when the use is counted, or stored for another try. If `consumed` is empty, it only frees the reservation. */
  record(request: AdmittedRequest, consumed: readonly Consumption[]): Promise<void>;
}

export type ReportUse = (tenant: string, consumed: readonly Consumption[]) => void;

export interface Consumption {
  model: string;
  /** Id of the answer's first adapter (`Assignment.adapter`); null if there is none. */
  centroid: string | null;
  requests: number;
  promptTokens: number;
  completionTokens: number;
}

/** The use of a request that adds documents. It is counted when their memory is built, or when it cannot be built. */
export interface Charge {
  request: AdmittedRequest;
  consumed: Consumption;
  /** Counted in place of `consumed` if the memory cannot be built: the use of the request's examples that were fitted. null: none. */
  otherwise: Consumption | null;
}

/** The sum of two uses, which are of the same model and centroid. */
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
