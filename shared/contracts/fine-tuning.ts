/** The supported part of OpenAI's files and fine-tuning jobs: requests and answers. */
import * as z from "zod";
import { absentAs, metadataSchema } from "./fields.ts";
import { limits } from "./limits.ts";
import { keepField } from "./openai.ts";
import { unixSeconds } from "./responses.ts";

const id = z.string().max(limits.headerCharacters);
const auto = z.literal("auto").nullish().describe("The fit stops by itself where held-out examples gain no more");
const hyperparameters = z
  .object({ n_epochs: auto, batch_size: auto, learning_rate_multiplier: auto })
  .nullish()
  .meta({ description: "Nothing but `auto` is supported" });

export const createJobRequestSchema = z.object({
  model: z.string().max(limits.modelCharacters).meta({ description: "The base" }),
  training_file: id.meta({ description: "Of 2 to as many examples as an adapter may have" }),
  validation_file: absentAs(id, null, "Measures the gain; absent, some of the training examples are held out"),
  suffix: absentAs(
    z.string().max(limits.adapterNameCharacters),
    null,
    "Name of the adapter: requests name `<base>:<suffix>`; must be free. Absent, one is made",
  ),
  seed: absentAs(z.int(), 0, "Changes nothing: equal examples make equal adapters"),
  metadata: absentAs(metadataSchema, null, "Is kept with the job"),
  keep: keepField,
  hyperparameters,
  method: z
    .object({ type: z.literal("supervised"), supervised: z.object({ hyperparameters }).nullish() })
    .nullish()
    .meta({ description: "Nothing but `supervised` is supported" }),
  integrations: z.array(z.never()).max(0).nullish().meta({ description: "None is supported" }),
});

const limit = (fallback: number) =>
  z.coerce.number().int().min(1).max(limits.recordsPerPage).default(fallback).meta({ description: "Most entries" });
const after = z.string().optional().meta({ description: "Id of the entry after which the page begins" });
export const pageQuerySchema = z.object({ limit: limit(20), after });
export const fileListQuerySchema = z.object({
  limit: limit(limits.recordsPerPage),
  after,
  order: z.enum(["asc", "desc"]).default("desc").meta({ description: "By time of creation" }),
  purpose: z.string().optional().meta({ description: "All files have `fine-tune`" }),
});
/** The multipart form of an upload, for the API document only. The edge reads a form as it arrives. */
export const createFileFormSchema = z.object({
  purpose: z.literal("fine-tune"),
  file: z.string().meta({
    format: "binary",
    description:
      'JSONL: on each line `{"messages": […]}`, whose last one is the assistant\'s, or `{"prompt": …, "completion": …}`',
  }),
});

export const fileSchema = z.object({
  id: z.string(),
  object: z.literal("file"),
  bytes: z.int(),
  created_at: unixSeconds,
  filename: z.string(),
  purpose: z.literal("fine-tune"),
  status: z.literal("processed").describe("It was checked when it was uploaded"),
});
const page = <T extends z.ZodType>(entry: T) =>
  z.object({
    object: z.literal("list"),
    data: z.array(entry),
    has_more: z.boolean(),
    first_id: z.string().nullable(),
    last_id: z.string().nullable(),
  });
export const fileListSchema = page(fileSchema);
const deletedSchema = <T extends string>(object: T) =>
  z.object({ id: z.string(), object: z.literal(object), deleted: z.literal(true) });
export const fileDeletedSchema = deletedSchema("file");
export const modelDeletedSchema = deletedSchema("model");

export const jobSchema = z.object({
  id: z.string(),
  object: z.literal("fine_tuning.job"),
  created_at: unixSeconds,
  finished_at: unixSeconds.nullable(),
  status: z.enum(["queued", "running", "succeeded", "failed", "cancelled"]),
  error: z.object({ code: z.string(), message: z.string(), param: z.string().nullable() }).nullable(),
  model: z.string(),
  fine_tuned_model: z.string().nullable().describe("What requests name, once the job has succeeded"),
  organization_id: z.string().describe("The tenant"),
  training_file: z.string(),
  validation_file: z.string().nullable(),
  trained_tokens: z.int().nullable().describe("What the job was charged; null while it is not or was not"),
  result_files: z.array(z.string()).describe("Empty: the events tell the losses"),
  seed: z.int(),
  metadata: z.record(z.string(), z.string()).nullable(),
  keep: z.boolean().describe("Whether the adapter's examples are kept with it; the file is, until you delete it"),
  hyperparameters: z.object({
    n_epochs: z.literal("auto"),
    batch_size: z.literal("auto"),
    learning_rate_multiplier: z.literal("auto"),
  }),
});
export const jobListSchema = page(jobSchema);
export const jobEventSchema = z.object({
  id: z.string(),
  object: z.literal("fine_tuning.job.event"),
  created_at: unixSeconds,
  level: z.enum(["info", "warn", "error"]),
  type: z.enum(["message", "metrics"]),
  message: z.string(),
  data: z
    .record(z.string(), z.unknown())
    .nullable()
    .describe("`step`, `train_loss` and `valid_loss` in nats a learnt token; or `gain`, `gain_ci95` and `tokens`"),
});
export const jobEventListSchema = page(jobEventSchema);
/** The list is always empty, because no intermediate states are kept. */
export const checkpointListSchema = page(z.never());

export type FileObject = z.infer<typeof fileSchema>;
export type FileDeleted = z.infer<typeof fileDeletedSchema>;
export type ModelDeleted = z.infer<typeof modelDeletedSchema>;
export type Job = z.infer<typeof jobSchema>;
export type JobEventObject = z.infer<typeof jobEventSchema>;
export type PageOf<T> = Omit<z.infer<typeof checkpointListSchema>, "data"> & { data: T[] };
