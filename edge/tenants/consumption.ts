/** An admitted request. Any isolate may settle it. */
export interface AdmittedRequest {
  requestId: string;
  tenant: string;
  /** Milliseconds since 1970. */
  beganMs: number;
  /** True if the tenant has limits, so that the ledger holds a reservation. */
  isLimited: boolean;
  /** Requests with the same idempotency key are charged once (ledger-store.ts). */
  idempotencyKey?: string | undefined;
}

export interface Settlement {
  request: AdmittedRequest;
  consumed: readonly Consumption[];
}

export interface UseRecorder {
  /** Resolves when the use is counted, or stored for another try. With an empty `consumed`, only frees the reservation. */
  record(request: AdmittedRequest, consumed: readonly Consumption[]): Promise<void>;
}

export type ReportUse = (tenant: string, consumed: readonly Consumption[]) => void;

export interface Consumption {
  model: string;
  /** Id of the answer's first adapter (`Assignment.adapter`); null if only the base answers. */
  centroid: string | null;
  requests: number;
  promptTokens: number;
  completionTokens: number;
}

/** The use of a request that adds documents, counted when the build of their memory ends. */
export interface Charge {
  request: AdmittedRequest;
  consumed: Consumption;
  /** Use for fitting the request's examples, counted instead of `consumed` if the memory cannot be built. */
  otherwise: Consumption | null;
}

/** Both uses must have the same model and centroid. */
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
