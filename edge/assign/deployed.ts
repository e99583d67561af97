/** Where this deployment's artifacts are: the bucket, if it has one, and the static assets. */
import { readAtMost } from "../../shared/artifacts/set-file.ts";
import { ArtifactBucket, type ArtifactSource, type Bucket, type CacheParts } from "./artifact-bucket.ts";
import { type Artifacts, heldSet, loadArtifacts } from "./artifacts.ts";

interface Bindings {
  ASSETS: { fetch(url: string): Promise<Response> };
  /** A deployment may be without. */
  ARTIFACTS?: Bucket;
}

/** null where nothing can be published. */
export function publishedSets({ ARTIFACTS }: Bindings, caching: CacheParts | null): ArtifactSource | null {
  return ARTIFACTS ? new ArtifactBucket(ARTIFACTS, caching) : null;
}

/** What is served where nothing was published. */
export function deployedSet({ ASSETS }: Bindings): Promise<Artifacts> {
  return loadArtifacts(async (name, mostBytes) => {
    const response = await ASSETS.fetch(`https://assets/artifacts/${name}`);
    if (!response.ok || !response.body) throw new Error(`the asset artifacts/${name} answered ${response.status}`);
    return await readAtMost(response.body, mostBytes);
  });
}

/** The set of a manifest, wherever it is; `files` as in ArtifactSource. Throws an Error where it is nowhere, or no good. */
export async function setOf(
  manifestHash: string,
  bindings: Bindings,
  caching: CacheParts | null,
  files?: readonly string[],
): Promise<Artifacts> {
  const held = heldSet(manifestHash);
  if (held) return held;
  let cause: unknown;
  try {
    const published = await publishedSets(bindings, caching)?.load(manifestHash, files);
    if (published) return published;
  } catch (error) {
    cause = error;
  }
  const deployed = await deployedSet(bindings);
  if (deployed.manifestHash === manifestHash) return deployed;
  const message = `the manifest ${manifestHash} is not in the bucket, nor deployed: that is ${deployed.manifestHash}`;
  throw new Error(message, { cause });
}
