/** Loads artifacts from the deployment's bucket or its static assets. */
import { currentOf } from "../../shared/artifacts/bucket.ts";
import { setLimits } from "../../shared/artifacts/limits.ts";
import { manifestFile } from "../../shared/artifacts/manifest.ts";
import { readAtMost } from "../../shared/artifacts/set-file.ts";
import { sha256Hex } from "../../shared/bytes.ts";
import { ArtifactBucket, type ArtifactSource, type Bucket, type CacheParts } from "./artifact-bucket.ts";
import { type Artifacts, heldSet, loadArtifacts } from "./artifacts.ts";

interface Bindings {
  ASSETS: { fetch(url: string): Promise<Response> };
  ARTIFACTS?: Bucket;
}

export function publishedSets({ ARTIFACTS }: Bindings, caching: CacheParts | null): ArtifactSource | null {
  return ARTIFACTS ? new ArtifactBucket(ARTIFACTS, caching) : null;
}

export function deployedSet(bindings: Bindings): Promise<Artifacts> {
  return loadArtifacts((name, maxBytes) => readAsset(bindings, name, maxBytes));
}

async function readAsset({ ASSETS }: Bindings, name: string, maxBytes: number): Promise<Uint8Array> {
  const response = await ASSETS.fetch(`https://assets/artifacts/${name}`);
  if (!response.ok || !response.body) throw new Error(`the asset artifacts/${name} answered ${response.status}`);
  return readAtMost(response.body, maxBytes);
}

export async function servedHash(bindings: Bindings): Promise<string> {
  const pointer = await publishedSets(bindings, null)?.pointer();
  return pointer ? currentOf(pointer) : sha256Hex(await readAsset(bindings, manifestFile, setLimits.manifestBytes));
}

/** Sets for a Durable Object's requests. One object's requests may share a load; requests of a Worker may not. */
export class PlannedSets {
  readonly #source: ArtifactSource | null;
  readonly #deployed: () => Promise<Artifacts>;
  readonly #held: (manifestHash: string) => Artifacts | null;
  readonly #loading = new Map<string, Promise<Artifacts>>();

  constructor(source: ArtifactSource | null, deployed: () => Promise<Artifacts>, held = heldSet) {
    this.#source = source;
    this.#deployed = deployed;
    this.#held = held;
  }

  /** `files` as in ArtifactBucket.load. Rejects if the set is missing or invalid. */
  async of(manifestHash: string, files?: readonly string[]): Promise<Artifacts> {
    return this.#held(manifestHash) ?? this.#once(manifestHash, () => this.#load(manifestHash, files));
  }

  prepare(): Promise<Artifacts> {
    return this.#once("served", async () => {
      const pointer = await this.#source?.pointer();
      return pointer ? this.of(currentOf(pointer)) : this.#deployed();
    });
  }

  async #once(name: string, load: () => Promise<Artifacts>): Promise<Artifacts> {
    const loading = this.#loading.get(name) ?? load();
    this.#loading.set(name, loading);
    try {
      return await loading;
    } finally {
      this.#loading.delete(name);
    }
  }

  async #load(manifestHash: string, files?: readonly string[]): Promise<Artifacts> {
    let cause: unknown;
    try {
      const published = await this.#source?.load(manifestHash, files);
      if (published) return published;
    } catch (error) {
      cause = error;
    }
    const deployed = await this.#deployed();
    if (deployed.manifestHash === manifestHash) return deployed;
    const message = `the manifest ${manifestHash} is not in the bucket, nor deployed: that is ${deployed.manifestHash}`;
    throw new Error(message, { cause });
  }
}
