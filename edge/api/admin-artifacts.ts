/** `/admin/v1/artifacts`: uploads files by their hashes, switches between sets, and lists the switches. */
import { setLimits } from "../../shared/artifacts/limits.ts";
import * as admin from "../../shared/contracts/admin.ts";
import { hashPattern } from "../../shared/contracts/inference.ts";
import { invalidRequest, ServiceError } from "../../shared/errors.ts";
import { type PublishBucket, putFile, storedBytes, switchesIn, switchTo } from "../artifacts/publish.ts";
import { readAdminBody } from "./body.ts";
import type { AppContext, Dependencies, RouteHandler } from "./dependencies.ts";

export const getFile: RouteHandler = async (c, dependencies) => {
  const sha256 = hashOf(c);
  const bytes = await storedBytes(bucketOf(dependencies), sha256);
  if (bytes === null) throw new ServiceError("not_found", `There is no file ${sha256}.`);
  return c.json({ object: "artifacts.file", sha256, bytes } satisfies admin.ArtifactFile);
};

export const uploadFile: RouteHandler = async (c, dependencies) => {
  const sha256 = hashOf(c);
  const { declaredBytes: bytes } = c.env;
  const { body } = c.req.raw;
  // R2 does not accept a stream of unknown length.
  if (bytes === null || !body) throw invalidRequest("the file must be the body, and Content-Length its bytes");
  if (bytes > setLimits.hyperNetworkBytes) {
    const message = `The body has ${bytes} bytes, the maximum is ${setLimits.hyperNetworkBytes}.`;
    throw new ServiceError("body_too_large", message);
  }
  await putFile(bucketOf(dependencies), sha256, body);
  return c.json({ object: "artifacts.file", sha256, bytes } satisfies admin.ArtifactFile);
};

export const listSwitches: RouteHandler = async (c, dependencies) => {
  const data = await switchesIn(bucketOf(dependencies));
  return c.json({ object: "list", data } satisfies admin.SwitchList);
};

export const switchArtifacts: RouteHandler = async (c, dependencies) => {
  const { manifest, other_model: otherModel } = await readAdminBody(c, admin.switchRequestSchema);
  const switched = await switchTo(bucketOf(dependencies), { manifest, otherModel }, dependencies.now());
  return c.json({ object: "artifacts.switch", ...switched } satisfies admin.SwitchReport);
};

function hashOf(c: AppContext): string {
  const sha256 = c.req.param("sha256")!;
  if (hashPattern.test(sha256)) return sha256;
  throw new ServiceError("not_found", "A file is named by its SHA-256, 64 lower-case hex digits.");
}

function bucketOf({ artifactBucket }: Dependencies): PublishBucket {
  if (artifactBucket) return artifactBucket;
  throw new ServiceError("not_found", "This deployment has no bucket ARTIFACTS, so it serves its static assets.");
}
