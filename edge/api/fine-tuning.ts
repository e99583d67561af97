/** OpenAI's fine-tuning jobs. A job makes an own adapter from a file's examples in the background (tenants/tuning-jobs.ts). */
import type { Example } from "../../shared/contracts/examples.ts";
import * as tuning from "../../shared/contracts/fine-tuning.ts";
import { type AdapterRequest, contractVersion } from "../../shared/contracts/inference.ts";
import { invalidRequest } from "../../shared/errors.ts";
import { selectionOf } from "../plan/assign.ts";
import { encodeExamples } from "../plan/examples.ts";
import { requireFreeName, throwRefusal } from "../tenants/own-adapters.ts";
import { jobsList } from "../tenants/record-lists.ts";
import { gunzippedText } from "../tenants/sealed-store.ts";
import type { OwnAdapters } from "../tenants/tenant-adapters.ts";
import type { JobEvent, TuningJob } from "../tenants/tuning-jobs.ts";
import { answerList } from "./answer.ts";
import { checked, readBody } from "./body.ts";
import type { AppContext, Dependencies, RouteHandler } from "./dependencies.ts";
import { answerPage, emptyPage, examplesOf, requireRecord } from "./files.ts";
import { originOf } from "./idempotency.ts";

export const createJob: RouteHandler = async (c, dependencies) => {
  const { now } = dependencies;
  const body = await readBody(c, dependencies, tuning.createJobRequestSchema);
  const origin = originOf(c, dependencies);
  const id = `ftjob-${origin.id}`;
  const { tenant } = c.get("access");
  const own = dependencies.adapters.of(tenant);
  const made = c.get("repeatable") && (await own.record(jobsList, id));
  if (made) return c.json(jobObject(made as TuningJob));
  const { model, training_file: trainingFile, validation_file: validationFile, seed, metadata, keep } = body;
  const artifacts = await dependencies.artifacts();
  const { manifest, manifestHash } = artifacts;
  if (model !== manifest.model.servedAs) {
    selectionOf(model, null, manifest); // throws model_not_found
    const message = `model is ${JSON.stringify(model)}; jobs begin from the base, "${manifest.model.servedAs}"`;
    throw invalidRequest(message, "model");
  }
  const name = body.suffix ?? `ft-${id.slice(-16)}`;
  requireFreeName(name, manifest, "suffix");
  const encode = async (id: string, param: string) => {
    const examples = await readExamples(own, id, param);
    return { examples, encoded: encodeExamples(examples, artifacts, now(), param) };
  };
  const training = await encode(trainingFile, "training_file");
  const validation = validationFile === null ? null : await encode(validationFile, "validation_file");
  const tokens = training.encoded.tokens + (validation?.encoded.tokens ?? 0);
  const admission = await c.get("admission").reserve(tokens);
  const created = Math.floor(origin.createdMs / 1000);
  const job: TuningJob = {
    ...{ id, created, finished: null, status: "queued", error: null, model, name, trainingFile, validationFile },
    ...{ seed, metadata, keep, examples: training.examples.length, tokens, trainedTokens: null },
    request: admission.request,
  };
  const request: AdapterRequest = {
    ...{ version: contractVersion, manifestHash, tenant, examples: training.encoded.examples },
    ...(validation && { validation: validation.encoded.examples }),
  };
  const examples = { examples: training.examples, validation: validation?.examples ?? null };
  const content = { request, manifestHash, centroid: [...training.encoded.centroid], tokens, examples };
  try {
    throwRefusal(await own.createJob(job, content));
  } finally {
    void admission.settle([]);
  }
  return c.json(jobObject(job));
};

export const listJobs: RouteHandler = async (c, dependencies) => {
  const filter = Object.keys(c.req.query()).find((name) => name.startsWith("metadata"));
  if (filter) throw invalidRequest(`${filter} is not supported: jobs are not listed by metadata`, "metadata");
  return answerPage(c, dependencies, jobsList, checked(tuning.pageQuerySchema, c.req.query()), jobObject);
};

export const getJob: RouteHandler = async (c, dependencies) => c.json(jobObject(await requireJob(c, dependencies)));

export const cancelJob: RouteHandler = async (c, dependencies) => {
  const { id } = await requireJob(c, dependencies);
  const cancelled = await dependencies.adapters.of(c.get("access").tenant).cancelJob(id);
  if (!cancelled) throw invalidRequest(`the job ${id} has ended already`, "id");
  return c.json(jobObject(cancelled));
};

export const pauseJob: RouteHandler = () => {
  throw invalidRequest("jobs cannot be paused or resumed: one takes seconds or minutes; cancel it and create another");
};

export const listJobEvents: RouteHandler = async (c, dependencies) => {
  const query = checked(tuning.pageQuerySchema, c.req.query());
  return answerPage(c, dependencies, (await requireJob(c, dependencies)).id, query, eventObject);
};

/** Always empty: a job keeps no checkpoints, but users of OpenAI's SDK iterate over them. */
export const listCheckpoints: RouteHandler = async (c, dependencies) => {
  await requireJob(c, dependencies);
  return answerList(c, dependencies, [], { others: emptyPage });
};

function requireJob(c: AppContext, dependencies: Dependencies): Promise<TuningJob> {
  return requireRecord<TuningJob>(c, dependencies, jobsList, "fine-tuning job");
}

async function readExamples(own: OwnAdapters, id: string, param: string): Promise<Example[]> {
  const content = await own.fileContent(id);
  if (!content)
    throw invalidRequest(`${param} is ${JSON.stringify(id.slice(0, 80))}, and you have no such file`, param);
  const examples = examplesOf(await gunzippedText(content), param);
  if (examples.length < 2) throw invalidRequest(`${param} has ${examples.length} example, the minimum is 2`, param);
  return examples;
}

function jobObject(job: TuningJob): tuning.Job {
  const { id, created, finished, status, model, name, error, seed, metadata, keep = true } = job;
  const hyperparameters = { n_epochs: "auto", batch_size: "auto", learning_rate_multiplier: "auto" } as const;
  return {
    ...{ id, object: "fine_tuning.job", created_at: created, finished_at: finished, status, model },
    error: error && { code: error.kind, message: error.message, param: error.param },
    fine_tuned_model: status === "succeeded" ? `${model}:${name}` : null,
    organization_id: job.request.tenant,
    ...{ training_file: job.trainingFile, validation_file: job.validationFile, result_files: [] },
    trained_tokens: job.trainedTokens,
    ...{ seed, metadata, keep, hyperparameters },
  };
}

function eventObject({ id, created, level, message, data }: JobEvent): tuning.JobEventObject {
  const type = data === null ? "message" : "metrics";
  return { id, object: "fine_tuning.job.event", created_at: created, level, type, message, data };
}
