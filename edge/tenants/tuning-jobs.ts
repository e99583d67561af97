/**
 * A tenant's fine-tuning jobs. Each makes an own adapter from examples, which are stored until the job ends. A job survives the loss of the
 * object. If its backend is lost, the job starts anew. A job is charged once, at its end.
 */
import { limits } from "../../shared/contracts/limits.ts";
import { toServiceError } from "../../shared/errors.ts";
import type { MadeAdapter } from "../dispatch/client.ts";
import { makeAdapter } from "../dispatch/make-adapter.ts";
import type { TenantParts } from "./backend-copies.ts";
import type { AdmittedRequest } from "./consumption.ts";
import { type FitContent, type Refused, refused, throwRefusal } from "./own-adapters.ts";
import { jobsList } from "./record-lists.ts";
import { currentContent, type JobContent } from "./refits.ts";
import { jsonBytes } from "./sealed-store.ts";

export interface TuningJob {
  id: string;
  /** Unix times in seconds. */
  created: number;
  finished: number | null;
  status: "queued" | "running" | "succeeded" | "failed" | "cancelled";
  error: Pick<Refused, "kind" | "message" | "param"> | null;
  model: string;
  name: string;
  trainingFile: string;
  validationFile: string | null;
  seed: number;
  metadata: Record<string, string> | null;
  /** false: the adapter's examples are not kept. */
  keep?: boolean;
  examples: number;
  /** Tokens of all examples, with those of the validation file. */
  tokens: number;
  request: AdmittedRequest;
  /** Charged tokens; null if none were charged, or none yet. */
  trainedTokens: number | null;
}

export interface JobEvent {
  id: string;
  created: number;
  level: "info" | "warn" | "error";
  message: string;
  data: Record<string, unknown> | null;
}

interface AdapterStore {
  roomFor(name: string, param: string): Refused | null;
  add(adapter: { name: string; keep?: boolean }, content: FitContent, made: MadeAdapter): Promise<Refused | null>;
  remove(name: string): Promise<unknown>;
  buildLater(): Promise<void>;
}

/** A job fails if no backend accepts it within this time. */
const maxJobSeconds = 86_400;
const isOpen = ({ status }: TuningJob) => status === "queued" || status === "running";

export class TuningJobs {
  readonly #parts: TenantParts;
  readonly #store: AdapterStore;
  #running: { id: string; abort: AbortController } | null = null;

  constructor(parts: TenantParts, store: AdapterStore) {
    this.#parts = parts;
    this.#store = store;
  }

  async create(job: TuningJob, content: JobContent): Promise<Refused | null> {
    const { lists, sealed } = this.#parts;
    const refusedFirst = this.#refusal(job.name);
    if (refusedFirst) return refusedFirst;
    const store = await sealed.seal(job.id, { content: jsonBytes(content) });
    // A repeated request may have stored the job meanwhile.
    if (lists.find(jobsList, job.id)) return null;
    const refusedLast = this.#refusal(job.name);
    if (refusedLast) return refusedLast;
    store();
    lists.add(jobsList, job);
    const { examples, tokens, validationFile } = job;
    const files = validationFile === null ? "The training file is" : "Training and validation file are";
    this.#tell(job.id, "info", `${files} valid: ${examples} examples, ${tokens} tokens. The job is queued.`);
    const all = this.#all();
    const ended = all.filter((one) => !isOpen(one));
    for (const { id } of ended.slice(0, Math.max(0, all.length - limits.tuningJobs))) {
      lists.remove(jobsList, id);
      lists.clear(id);
    }
    await this.#store.buildLater();
    return null;
  }

  #all(): TuningJob[] {
    return this.#parts.lists.all<TuningJob>(jobsList);
  }

  #open(id: string): TuningJob | null {
    const job = this.#parts.lists.find<TuningJob>(jobsList, id);
    return job && isOpen(job) ? job : null;
  }

  #refusal(name: string): Refused | null {
    const open = this.#all().filter(isOpen);
    if (open.length >= limits.openTuningJobs) {
      const message = `${open.length} fine-tuning jobs have not ended, the maximum is ${limits.openTuningJobs}.`;
      return refused("adapter_quota_exceeded", message);
    }
    const same = open.find((one) => one.name === name);
    if (!same) return this.#store.roomFor(name, "suffix");
    const message = `The job ${same.id} is making an adapter ${name}; choose another suffix.`;
    return refused("invalid_request", message, "suffix");
  }

  cancel(id: string): TuningJob | null {
    const job = this.#open(id);
    if (!job) return null;
    if (this.#running?.id === id) this.#running.abort.abort();
    this.#tell(id, "info", "The job was cancelled.");
    // A job that a backend has begun is charged, just as a request is charged if its client disconnects.
    return this.#end(job, "cancelled", job.status === "running");
  }

  abort(): void {
    this.#running?.abort.abort();
  }

  get areOpen(): boolean {
    return this.#all().some(isOpen);
  }

  /** Runs all open jobs, one after another. Resolves to whether some are left. */
  async runAll(): Promise<boolean> {
    const tried = new Set<string>();
    for (;;) {
      const job = this.#all().find((one) => isOpen(one) && !tried.has(one.id));
      if (!job) return this.areOpen;
      tried.add(job.id);
      await this.#run(job);
    }
  }

  async #run({ id, name, keep }: TuningJob): Promise<void> {
    const { encoder, clients, lists, sealed, now } = this.#parts;
    const abort = new AbortController();
    this.#running = { id, abort };
    let isMade = false;
    try {
      const stored = await sealed.json<JobContent>(id, "content");
      if (!stored) throw new Error("the job's examples are gone");
      const content = await currentContent(encoder(), stored, now());
      const made = await makeAdapter(clients().values(), content.request, abort.signal, () => {
        const job = this.#open(id);
        if (job?.status !== "queued") return;
        lists.replace({ ...job, status: "running" });
        this.#tell(id, "info", "The job has started.");
      });
      isMade = true;
      throwRefusal(await this.#store.add({ name, keep }, content, made));
      const job = this.#open(id);
      if (!job) return void (await this.#store.remove(name));
      this.#tellOf(job, made);
      this.#end(job, "succeeded", true);
    } catch (thrown) {
      const job = this.#open(id);
      if (!job) return;
      const { kind, message, param } = toServiceError(thrown);
      const isLate = this.#now() > job.created + maxJobSeconds;
      if ((kind === "backend_unavailable" || kind === "overloaded") && !isLate) {
        return this.#tell(id, "warn", `${message} The job is tried again.`);
      }
      if (kind === "internal")
        console.warn(JSON.stringify({ level: "warn", event: "job_failed", cause: String(thrown) }));
      this.#tell(id, "error", `The job has failed: ${message}`);
      // The job is charged if its adapter was made, even if there was no room to add it.
      this.#end({ ...job, error: { kind, message, param } }, "failed", isMade);
    } finally {
      this.#running = null;
    }
  }

  #tellOf({ id, model, name, keep }: TuningJob, { losses, gain, kept }: MadeAdapter): void {
    for (const { step, train, heldOut } of losses) {
      const message = `Step ${step}: training loss ${train.toFixed(3)}, held-out loss ${heldOut.toFixed(3)}`;
      this.#tell(id, "info", message, { step, train_loss: train, valid_loss: heldOut });
    }
    if (gain) {
      const { nats, ci95, tokens } = gain;
      const interval = `95% interval ${ci95[0].toFixed(3)} to ${ci95[1].toFixed(3)}`;
      const message = `Gain on ${tokens} held-out tokens: ${nats.toFixed(3)} nats a token, ${interval}.`;
      this.#tell(id, "info", message, { gain: nats, gain_ci95: ci95, tokens });
    }
    if (!kept) this.#tell(id, "warn", noGain);
    if (keep === false) this.#tell(id, "warn", notKept);
    this.#tell(id, "info", `The job has succeeded: ${model}:${name} can be used.`);
  }

  #end(job: TuningJob, status: TuningJob["status"], isCharged: boolean): TuningJob {
    const { request, model, name, tokens } = job;
    const ended = { ...job, status, finished: this.#now(), trainedTokens: isCharged ? tokens : null };
    this.#parts.lists.replace(ended);
    this.#parts.sealed.delete(job.id);
    const use = { model: `${model}:${name}`, centroid: null, requests: 1, promptTokens: tokens, completionTokens: 0 };
    if (isCharged) this.#parts.count(request, use);
    return ended;
  }

  #tell(job: string, level: JobEvent["level"], message: string, data: JobEvent["data"] = null): void {
    const last = this.#parts.lists.page<JobEvent>(job, { limit: 1, after: null, order: "desc" })?.records[0];
    if (last?.message === message) return;
    const id = `ftevent-${this.#parts.newId()}`;
    this.#parts.lists.add<JobEvent>(job, { id, created: this.#now(), level, message, data });
  }

  #now(): number {
    return Math.floor(this.#parts.now() / 1000);
  }
}

const noGain =
  "The base is served under this name: the interval of the gain on held-out examples reaches zero, so nothing was kept.";

const notKept =
  "The adapter's examples are not kept: it is not made again for other artifacts, with which it is gone. The files stay until you delete them.";
