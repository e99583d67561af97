/** Makes own adapters. The engine computes hidden states, another process fits. */
import type { AdapterAnswer, AdapterRequest, SequenceRequest } from "../../../shared/contracts/inference.ts";
import { limits } from "../../../shared/contracts/limits.ts";
import { ServiceError } from "../../../shared/errors.ts";
import { ownAdapterHash } from "../../adapters/own/artifact.ts";
import type { EngineInfo } from "../../engine/messages.ts";
import { requireManifest } from "../../engine/refusals.ts";
import { fileBytes, type TenantStore } from "../../tenant-files/tenant-store.ts";
import { type EngineClient, tracedPrompt } from "../client.ts";
import type { FitClient } from "./fit-client.ts";
import { MakingQueue } from "./making-queue.ts";

interface AdapterSet {
  engine: Pick<EngineClient, "hiddenStates" | "info">;
  fitter: Pick<FitClient, "fit">;
}

export interface OwnAdapterServiceParts {
  setOf(manifestHash: string): AdapterSet; // ServingSets.of
  store: TenantStore;
  newId(): string;
  now(): number;
}

export class OwnAdapterService {
  readonly store: TenantStore;
  readonly #parts: OwnAdapterServiceParts;
  readonly #queue = new MakingQueue("adapters");

  constructor(parts: OwnAdapterServiceParts) {
    this.#parts = parts;
    this.store = parts.store;
  }

  /** Resolves when the work begins. `answer` rejects with `cancelled` on abort. */
  async begin(request: AdapterRequest, signal: AbortSignal): Promise<{ answer: Promise<AdapterAnswer> }> {
    const set = this.#parts.setOf(request.manifestHash);
    const prompts = this.#promptsOf(request, set.engine.info);
    const end = await this.#queue.enter(request.tenant, signal);
    return { answer: this.#make(request, prompts, set, signal).finally(end) };
  }

  async #make(
    { tenant, examples: asked, validation }: AdapterRequest,
    prompts: SequenceRequest[],
    { engine, fitter }: AdapterSet,
    signal: AbortSignal,
  ): Promise<AdapterAnswer> {
    const { now } = this.#parts;
    const startedMs = now();
    const learnt = [...asked, ...(validation ?? [])];
    const from = learnt.map((one) => one.from);
    const hidden = await engine.hiddenStates(prompts, from, signal);
    const hiddenMs = now() - startedMs;
    const all = learnt.map(({ ids, from }, i) => ({ hidden: hidden[i], targets: Int32Array.from(ids.slice(from)) }));
    const examples = all.slice(0, asked.length);
    const request = { examples, validation: validation ? all.slice(asked.length) : null };
    const { file, gain, kept, losses } = await fitter.fit(request, signal);
    return {
      hash: await this.#keep(tenant, file),
      ...{ gain, kept, losses },
      tokens: prompts.reduce((sum, { promptIds }) => sum + promptIds.length, 0),
      file: Buffer.from(file).toString("base64"),
      timings: { hiddenMs, fitMs: now() - startedMs - hiddenMs },
    };
  }

  /** Throws a ServiceError if the hash of the bytes is not `hash`. */
  async upload(tenant: string, hash: string, bytes: Uint8Array): Promise<void> {
    const found = ownAdapterHash(tenant, bytes);
    if (found !== hash) {
      throw new ServiceError("invalid_request", `The adapter's hash for this tenant is ${found}, not ${hash}.`);
    }
    await this.#keep(tenant, bytes);
  }

  /** Throws a ServiceError if the adapter alone exceeds the tenant's bound. */
  async #keep(tenant: string, file: Uint8Array): Promise<string> {
    const { store } = this.#parts;
    const bytes = fileBytes(file);
    if (bytes > store.tenantBytes) {
      throw new ServiceError(
        "adapter_quota_exceeded",
        `The adapter has ${bytes} bytes; a tenant may keep ${store.tenantBytes} bytes of adapters.`,
      );
    }
    const hash = ownAdapterHash(tenant, file);
    await store.keep(tenant, hash, file);
    return hash;
  }

  #promptsOf(
    { manifestHash, tenant, examples, validation = [] }: AdapterRequest,
    info: EngineInfo | null,
  ): SequenceRequest[] {
    const refuse = (message: string) => new ServiceError("invalid_request", message);
    const { contextTokens, vocabularySize } = requireManifest(info, manifestHash).manifest.model;
    const sums = { tokens: 0, learnt: 0 };
    const all = [...examples, ...validation];
    for (const { ids, from } of all) {
      sums.tokens += ids.length;
      sums.learnt += ids.length - from;
      // The engine needs room for another token after the prompt.
      if (ids.length >= contextTokens) {
        throw refuse(`An example has ${ids.length} tokens, the maximum is ${contextTokens - 1}.`);
      }
      const beyond = ids.find((id) => id >= vocabularySize);
      if (beyond !== undefined)
        throw refuse(`Token id ${beyond} is out of the vocabulary of ${vocabularySize} ids, from 0.`);
    }
    for (const [what, count, most] of [
      ["tokens", sums.tokens, limits.adapterTokens],
      ["tokens to be learnt", sums.learnt, limits.adapterLearntTokens],
    ] as const) {
      if (count > most) throw refuse(`The examples have ${count} ${what}, the maximum is ${most}.`);
    }
    const batch = this.#parts.newId();
    return all.map(({ ids }, i) => tracedPrompt(`adapter-${batch}-${i}`, tenant, ids));
  }
}
