/** A planned request, as sent to the Durable Object that answers it. */
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import type { BatchRequest } from "../../shared/contracts/inference.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { AdmittedRequest } from "../tenants/admission.ts";
import { chatForm } from "./chat-form.ts";
import type { ChoiceOptions } from "./choice.ts";
import { completionForm } from "./completion-form.ts";
import type { Plan } from "./plan.ts";
import type { Envelope } from "./response.ts";

/** The response format of each endpoint. */
export const forms = { completion: completionForm, chat: chatForm };

/** Everything needed to build the answer, as JSON. */
export interface CellRequest {
  form: keyof typeof forms;
  envelope: Envelope;
  plan: Plan;
  /** The place of each batch of the plan. */
  places: number[];
  options: ChoiceOptions;
  stream: boolean;
  /** True if a stream ends with a usage chunk. */
  includeUsage: boolean;
  /** Heartbeat interval of a stream, in milliseconds. */
  heartbeatMs: number;
  admitted: AdmittedRequest;
}

/** Where a batch belongs among all: by its centroid; the base behind those, adapters of tenants anywhere. */
export function placeOf({ centroidId, adapterHash }: BatchRequest, { centroids }: Manifest): number {
  if (adapterHash) return Number.parseInt(adapterHash.slice(0, 8), 16);
  const index = centroids.findIndex(({ id }) => id === centroidId);
  return index < 0 ? centroids.length : index;
}

/** The error of a request whose Durable Object was lost because its machine or code was replaced. */
export function interrupted(cause: unknown): ServiceError {
  const message = "The request was interrupted at the edge; try again.";
  return new ServiceError("backend_unavailable", message, { retryAfterSeconds: 1, cause });
}

/**
 * Resolves to the answer as its client gets it, `content-type` and `server-timing` included: whole, or once its stream
 * has begun. Rejects with the ServiceError that ends it before. From then on it settles what was admitted.
 */
export type Cells = (request: CellRequest, signal: AbortSignal) => Promise<Response>;
