/**
 * A tenant's fine-tuning jobs, in its Durable Object: each makes an own adapter of examples. A job is stored with them until it ends, and
 * the object's alarm runs it, so it survives the loss of the object and of the backend, which then begins anew. It is charged once, when
 * it ends.
 */
import type { AdapterRequest } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { toServiceError } from "../../shared/errors.ts";
import type { MadeAdapter } from "../dispatch/client.ts";
import type { AdmittedRequest, Consumption } from "./consumption.ts";
import { type Added, type FittedAdapter, type KeptExamples, requireRoom } from "./own-adapters.ts";
import { jobsList, type RecordLists } from "./record-lists.ts";
import { jsonBytes, type SealedStore } from "./sealed-store.ts";
import type { Refused } from "./tenant-memories.ts";

export interface TuningJob {
  id: string;
  /** Unix time in seconds, as `finished`. */
  created: number;
  finished: number | null;
  status: "queued" | "running" | "succeeded" | "failed" | "cancelled";
  error: Pick<Refused, "kind" | "message" | "param"> | null;
  /** The served name of the base. */
  model: string;
  /** Of the adapter. */
  name: string;
  trainingFile: string;
  validationFile: string | null;
  seed: number;
  metadata: Record<string, string> | null;
  /** False: the adapter's examples are not kept with it. */
  keep?: boolean;
  examples: number;
  /** Of all examples, those of the validation file included. */
  tokens: number;
  /** Under which it is charged. */
  request: AdmittedRequest;
  /** The tokens that it was charged; null if it was not, or is not yet. */
  trainedTokens: number | null;
}

export interface JobEvent {
  id: string;
  created: number;
  level: "info" | "warn" | "error";
  message: string;
  /** Of an event with figures. */
  data: Record<string, unknown> | null;
}

/** What a job works on; `examples` are kept with the adapter. */
export interface JobContent {
  request: AdapterRequest;
  /** Mean prompt embedding of the examples, of length 1, [P]. */
  centroid: number[];
  examples: KeptExamples;
}

interface JobParts {
  lists: RecordLists;
  sealed: SealedStore;
  now(): number;
  newId(): string;
  roomFor(name: string): Added;
  /** The same for the artifacts that are served now. */
  current(content: JobContent): Promise<JobContent>;
  make(request: AdapterRequest, signal: AbortSignal, begun: () => void): Promise<MadeAdapter>;
  add(adapter: FittedAdapter, examples: KeptExamples, made: MadeAdapter): Promise<Added>;
  remove(name: string): Promise<unknown>;
  /** Stores what was used, in the present transaction, and has it counted. */
  count(request: AdmittedRequest, consumed: Consumption): void;
  /** Has the alarm run at once. */
  wake(): Promise<void>;
}

/** A job that no backend has made for so long fails. */
const maxJobSeconds = 86_400;
const isOpen = ({ status }: TuningJob) => status === "queued" || status === "running";

export class TuningJobs {
  readonly #parts: JobParts;
  #running: { id: string; abort: AbortController } | null = null;
  #pass: Promise<boolean> | null = null;

  constructor(parts: JobParts) {
    this.#parts = parts;
  }

  /** Stores a job, or returns why not. */
  async create(job: TuningJob, content: JobContent): Promise<Refused | Added> {
    const refused = this.#refusal(job.name);
    if (refused !== "added") return refused;
    const store = await this.#parts.sealed.seal(job.id, { content: jsonBytes(content) });
    // Stored meanwhile by a repeated request.
    if (this.#parts.lists.find(jobsList, job.id)) return "added";
    const refusedLast = this.#refusal(job.name);
    if (refusedLast !== "added") return refusedLast;
    store();
    this.#parts.lists.add(jobsList, job);
    const { examples, tokens, validationFile } = job;
    const files = validationFile === null ? "The training file is" : "Training and validation file are";
    this.#tell(job.id, "info", `${files} valid: ${examples} examples, ${tokens} tokens. The job is queued.`);
    const all = this.#all();
    const ended = all.filter((one) => !isOpen(one));
    for (const { id } of ended.slice(0, Math.max(0, all.length - limits.tuningJobs))) {
      this.#parts.lists.remove(jobsList, id);
      this.#parts.lists.clear(id);
    }
    await this.#parts.wake();
    return "added";
  }

  #all(): TuningJob[] {
    return this.#parts.lists.all<TuningJob>(jobsList);
  }

  #open(id: string): TuningJob | null {
    const job = this.#parts.lists.find<TuningJob>(jobsList, id);
    return job && isOpen(job) ? job : null;
  }

  #refusal(name: string): Refused | Added {
    const open = this.#all().filter(isOpen);
    if (open.length >= limits.openTuningJobs) {
      const message = `${open.length} fine-tuning jobs have not ended, the maximum is ${limits.openTuningJobs}.`;
      return { kind: "adapter_quota_exceeded", message, param: null };
    }
    const same = open.find((one) => one.name === name);
    if (!same) return this.#parts.roomFor(name);
    const message = `The job ${same.id} is making an adapter ${name}; choose another suffix.`;
    return { kind: "invalid_request", message, param: "suffix" };
  }

  /** Ends a job. Returns it as it is then, or null if it has ended already, or there is none. */
  cancel(id: string): TuningJob | null {
    const job = this.#open(id);
    if (!job) return null;
    if (this.#running?.id === id) this.#running.abort.abort();
    this.#tell(id, "info", "The job was cancelled.");
    // As for a client that leaves: what a backend has begun is charged.
    return this.#end(job, "cancelled", job.status === "running");
  }

  /** Cancels all jobs, which are about to be forgotten. */
  abort(): void {
    this.#running?.abort.abort();
  }

  get areOpen(): boolean {
    return this.#all().some(isOpen);
  }

  /** Runs all jobs that have not ended, one after the other. True if some are left. */
  runAll(): Promise<boolean> {
    this.#pass ??= this.#runAll().finally(() => {
      this.#pass = null;
    });
    return this.#pass;
  }

  async #runAll(): Promise<boolean> {
    const tried = new Set<string>();
    for (;;) {
      const job = this.#all().find((one) => isOpen(one) && !tried.has(one.id));
      if (!job) return this.areOpen;
      tried.add(job.id);
      await this.#run(job);
    }
  }

  /** Never rejects. */
  async #run({ id, name, tokens, keep, examples: count }: TuningJob): Promise<void> {
    const abort = new AbortController();
    this.#running = { id, abort };
    let isMade = false;
    try {
      const content = await this.#parts.sealed.json<JobContent>(id, "content");
      if (!content) throw new Error("the job's examples are gone");
      const { request, centroid, examples } = await this.#parts.current(content);
      const made = await this.#parts.make(request, abort.signal, () => {
        const job = this.#open(id);
        if (job?.status !== "queued") return;
        this.#parts.lists.replace({ ...job, status: "running" });
        this.#tell(id, "info", "The job has started.");
      });
      isMade = true;
      const { hash, kept } = made;
      const [gain, created] = [kept ? made.gain : null, this.#now()];
      const counts = { examples: count, tokens, created };
      const adapter = { name, hash, manifestHash: request.manifestHash, centroid, gain, ...counts, keep };
      requireRoom(await this.#parts.add(adapter, examples, made), name);
      const job = this.#open(id);
      if (!job) return void (await this.#parts.remove(name));
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
      // What was computed is charged if the tenant left no room for it.
      this.#end({ ...job, error: { kind, message, param } }, "failed", isMade);
    } finally {
      this.#running = null;
    }
  }

  #tellOf({ id, model, name, keep }: TuningJob, { losses, gain, kept }: MadeAdapter): void {
    for (const { step, train, heldOut } of losses) {
      const message = `Step ${step}: training loss ${rounded(train)}, held-out loss ${rounded(heldOut)}`;
      this.#tell(id, "info", message, { step, train_loss: train, valid_loss: heldOut });
    }
    if (gain) {
      const { nats, ci95, tokens } = gain;
      const interval = `95% interval ${rounded(ci95[0])} to ${rounded(ci95[1])}`;
      const message = `Gain on ${tokens} held-out tokens: ${rounded(nats)} nats a token, ${interval}.`;
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

  /** A job's latest event is not repeated. */
  #tell(job: string, level: JobEvent["level"], message: string, data: JobEvent["data"] = null): void {
    const last = this.#parts.lists.page<JobEvent>(job, { limit: 1, after: null, order: "desc" })?.records[0];
    if (last?.message === message) return;
    const id = `ftevent-${this.#parts.newId()}`;
    this.#parts.lists.add<JobEvent>(job, { id, created: this.#now(), level, message, data });
  }

  /** Unix time in seconds. */
  #now(): number {
    return Math.floor(this.#parts.now() / 1000);
  }
}

const noGain =
  "The base is served under this name: the interval of the gain on held-out examples reaches zero, so nothing was kept.";

const notKept =
  "The adapter's examples are not kept: it is not made again for other artifacts, with which it is gone. The files stay until you delete them.";

function rounded(value: number): string {
  return value.toFixed(3);
}
