/** A planned request, as sent to the Durable Object that answers it. */
import { ServiceError } from "../../shared/errors.ts";
import type { Region } from "../platform/region.ts";
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
  options: ChoiceOptions;
  stream: boolean;
  /** True if a stream ends with a usage chunk. */
  includeUsage: boolean;
  /** Heartbeat interval of a stream, in milliseconds. */
  heartbeatMs: number;
  admitted: AdmittedRequest;
}

/** The error of a request whose Durable Object was lost because its machine or code was replaced. */
export function interrupted(cause: unknown): ServiceError {
  const message = "The request was interrupted at the edge; try again.";
  return new ServiceError("backend_unavailable", message, { retryAfterSeconds: 1, cause });
}

/**
 * Sends a request to a cell of the region. Resolves to the answer as its client gets it, `content-type` and `server-timing`
 * included: whole, or once its stream has begun; from then on the cell settles what was admitted. Rejects with the
 * ServiceError that ends it before, which the cell has settled unless it is a CellFull, or with another Error if the cell
 * is lost.
 */
export type Cells = (request: CellRequest, region: Region, signal: AbortSignal) => Promise<Response>;
