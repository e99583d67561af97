/** The use of requests, and the interface that records it. */

/** A request that has reserved its tokens. Another object may settle it. */
export interface AdmittedRequest {
  requestId: string;
  tenant: string;
  /** When it began, in milliseconds since 1970. */
  beganMs: number;
  /** True if its tenant has limits, and so the ledger holds a reservation. */
  isLimited: boolean;
  /** Use under the same key is charged once (charged-keys.ts). */
  idempotencyKey?: string | undefined;
}

/** The use of an ended request, or of several of a tenant without limits (`isMerged`), which its ledger counts once. */
export interface Settlement extends Pick<AdmittedRequest, "beganMs" | "idempotencyKey"> {
  id: string;
  consumed: Consumption[];
  isMerged?: boolean;
}

/** Counts use with the ledgers and reports it (settlements.ts). */
export interface UseRecorder {
  /** Ends a request; without use it only frees its reservation. Resolves when it is counted, or stored for another try. */
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

/** Use of an admitted request that is counted once its documents are a memory. */
export interface Charge {
  request: AdmittedRequest;
  consumed: Consumption;
  /** Is counted where they become none: of the parts that were fitted beside it. */
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
