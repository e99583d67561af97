/**
 * What the Worker sends to the cell that answers a request, and what only the Worker reads of the answer. Worker and cell may be of
 * releases next to each other while a deploy spreads, so the message has a version and a schema. A message of another version is
 * checked: unknown fields are kept, missing new ones have defaults. One of the cell's own version is not checked, as it was made by
 * code with the same schema.
 */
import { z } from "zod";
import { samplingSchema, sequenceRequestSchema } from "../../shared/contracts/inference.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { Assignment } from "../assign/assign.ts";
import { NotTaken } from "../batching/batch-client.ts";
import type { AdmittedRequest } from "../tenants/admission.ts";
import type { ChoiceOptions } from "./choice.ts";
import type { forms } from "./forms.ts";
import { batchesOf, type Plan, type PlannedChoice } from "./plan.ts";
import type { Envelope } from "./response.ts";
import type { StreamCursor } from "./sent-events.ts";

/**
 * Goes up by one in a version that changes the schema, or the meaning of a field or of the answer. A cell takes the version after
 * its own and those since the last release, which was of version 1 and had no such field.
 */
export const cellRequestVersion = 4;
const releasedVersion = 1;

/** Set by a cell on streams that another cell can go on with. Cells of version 1 set none. */
export const resumableHeader = "x-chameleon-resumable";

/**
 * In a whole answer that has begun: it has failed, and its client must not take what it has for the answer. JSON has no such
 * character. Workers of version 1 do not know it.
 */
export const failedMark = "\0";

/** Everything needed to build the answer, as JSON. */
export interface CellRequest {
  version: number;
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
  /** How far the client has the stream already, from a cell that was lost. */
  resumeFrom?: StreamCursor | undefined;
  /** An earlier cell was lost, or has ended the request for a client that did not read: then it is settled. */
  isResumed?: boolean | undefined;
}

/** Checked by the backend, which gets them as they are. */
const tokenIds = z.custom<number[]>(Array.isArray);
const isObject = (value: unknown): value is object => typeof value === "object" && value !== null;

const sequenceSchema = z.looseObject({
  ...sequenceRequestSchema.shape,
  promptIds: tokenIds,
  continuedIds: tokenIds,
  sampling: z.looseObject(samplingSchema.shape),
  mixture: z.custom<NonNullable<Assignment["mixture"]>>(isObject).optional(),
});

const plannedChoiceSchema = z.looseObject({
  index: z.int().min(0),
  prompt: z.int().min(0),
  assignment: z.custom<PlannedChoice["assignment"]>(isObject),
  sequence: sequenceSchema,
});

export const cellRequestSchema = z.looseObject({
  version: z
    .int()
    .min(releasedVersion)
    .max(cellRequestVersion + 1)
    .default(releasedVersion),
  form: z.enum(["completion", "chat"]),
  envelope: z.looseObject({ id: z.string(), created: z.int(), model: z.string(), fingerprint: z.string() }),
  plan: z.looseObject({
    manifestHash: z.string(),
    choices: z.array(plannedChoiceSchema).min(1),
    promptTokens: z.int(),
    tokenizeMs: z.number(),
    assignMs: z.number(),
  }),
  options: z.looseObject({ echo: z.boolean(), logprobs: z.int().nullable(), compare: z.boolean() }),
  stream: z.boolean(),
  includeUsage: z.boolean(),
  heartbeatMs: z.number().positive(),
  admitted: z.looseObject({ requestId: z.string(), tenant: z.string(), isLimited: z.boolean() }),
  resumeFrom: z
    .looseObject({
      choices: z.array(z.looseObject({ events: z.int(), digest: z.int(), isDone: z.boolean() })),
      isUsageSent: z.boolean(),
    })
    .optional(),
  isResumed: z.boolean().optional(),
});

/** Throws NotTaken for a message that this cell cannot read. */
export function readCellRequest(message: unknown): CellRequest {
  const { version = releasedVersion } = isObject(message) ? (message as { version?: unknown }) : {};
  if (version === cellRequestVersion) return message as CellRequest;
  const read = cellRequestSchema.safeParse(message);
  if (read.success) return read.data;
  const [{ path, message: why }] = read.error.issues;
  throw new NotTaken(
    "backend_unavailable",
    `The edge is being updated; try again. (Request of version ${JSON.stringify(version)}, cell of ${cellRequestVersion}: ${path.join(".")}: ${why}.)`,
  );
}

/**
 * What to send to the next cell when one is lost, for the `losses`-th time. `cursor` is how far the client has the stream;
 * null if it has nothing.
 */
export function resumedRequest(
  request: CellRequest,
  losses: number,
  cursor: StreamCursor | null,
  elapsedMs: number,
): CellRequest {
  const choices = request.plan.choices.map((choice) => {
    // Counted when it was asked for first.
    const { assignment: _, deadlineMs, ...sequence } = choice.sequence;
    // A stream that has begun has met its deadline.
    const timeLeft =
      deadlineMs === undefined || cursor !== null ? {} : { deadlineMs: Math.max(1, deadlineMs - elapsedMs) };
    // The backend may still run the sequence under its first id.
    return { ...choice, sequence: { ...sequence, ...timeLeft, id: `${sequence.id}_r${losses}` } };
  });
  return {
    ...request,
    isResumed: true,
    plan: { ...request.plan, choices },
    ...(cursor !== null && { resumeFrom: cursor }),
  };
}

/** The message as it is sent: with what cells of version 1 read, which answer batches of equal places themselves. */
export function sentCellRequest(request: CellRequest): string {
  return JSON.stringify({ ...request, places: batchesOf(request.plan).map(() => 0) });
}

/** The error of a request whose cells were lost because their machine or code was replaced. */
export function interrupted(cause: unknown): ServiceError {
  const message = "The request was interrupted at the edge; try again.";
  return new ServiceError("backend_unavailable", message, { retryAfterSeconds: 1, cause });
}
