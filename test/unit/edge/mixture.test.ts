import fc from "fast-check";
import { expect, test } from "vitest";
import {
  automaticMixture,
  type Candidate,
  type Listed,
  listedMixture,
  servedFor,
  staticCandidate,
} from "../../../edge/plan/mixture.ts";
import { mixtureSchema } from "../../../shared/contracts/inference.ts";
import { defaultCalibration, priorsOf } from "../../../shared/math/evidence.ts";

const seed = 20_261_126;
const candidate = (id: string, similarity: number, more: Partial<Candidate> = {}): Candidate => ({
  ...{ id, similarity, ownHash: null, gain: null, isOff: false },
  ...more,
});
const nearest = [0.9, 0.8, 0.5, 0.4, 0.1].map((similarity, k) => candidate(`c${k}`, similarity));
const own = (id: string, similarity: number) => candidate(id, similarity, { ownHash: "a".repeat(64) });
const list = (...entries: [Candidate | "base", number?][]): Listed[] =>
  entries.map(([one, weight]) => ({ candidate: one === "base" ? null : one, weight: weight ?? null }));
const evidence = { tokens: 64 };
const idsOf = ({ experts }: { experts: Candidate[] }) => experts.map(({ id }) => id);
const totalOf = ({ request }: ReturnType<typeof automaticMixture>) =>
  request.adapters.reduce((sum, { weight }) => sum + weight, request.base);

test("a mixture by evidence is of the base and the nearest centroids, by their priors", () => {
  const { experts, request, mode } = automaticMixture(nearest, {}, evidence);
  const { base, adapters: priors } = priorsOf(nearest.slice(0, 3), false, defaultCalibration);
  const { temper, floor } = defaultCalibration;
  expect([mode, experts]).toEqual(["evidence", nearest.slice(0, 3)]);
  expect(base).toBeCloseTo(defaultCalibration.base, 12);
  expect(request).toEqual({
    base,
    adapters: priors.map((weight, k) => ({ centroidId: `c${k}`, weight })),
    evidence: { tokens: 64, temper, floor },
  });
  expect(mixtureSchema.parse(request)).toEqual(request);
});

test("a mixture by evidence begins a chat with most of the weight on the base, whatever the manifest says of plain text", () => {
  const ofChat = { tokens: 64, spans: [[3, 60]] as [number, number][] };
  const chat = automaticMixture(nearest, {}, ofChat).request;
  const listed = listedMixture(list(["base"], [nearest[0]]), {}, ofChat).request;
  for (const { base, adapters } of [chat, listed]) {
    expect(base).toBeCloseTo(0.9, 12);
    expect(adapters.reduce((sum, { weight }) => sum + weight, base)).toBeCloseTo(1, 12);
  }
  const trusting = { ...defaultCalibration, base: 0.95 };
  expect(automaticMixture(nearest, { evidence: trusting }, ofChat).request.base).toBeCloseTo(0.95);
});

test("a mixture of listed experts with weights is fixed: one that is off counts as the base, a tenant's own comes first", () => {
  const { mode, request } = listedMixture(list(["base", 1], [nearest[0], 3]), {}, evidence);
  expect([mode, request]).toEqual(["fixed", { base: 0.25, adapters: [{ centroidId: "c0", weight: 0.75 }] }]);
  const off = { ...nearest[0], isOff: true };
  const fixed = listedMixture(list([off, 1], [nearest[1], 2], [own("legal", 0.1), 1]), {}, evidence);
  expect(fixed.request).toEqual({
    base: 0.25,
    adapters: [
      { adapterHash: "a".repeat(64), weight: 0.25 },
      { centroidId: "c1", weight: 0.5 },
    ],
  });
  expect(idsOf(fixed)).toEqual(["legal", "c1"]);
  const weighed = listedMixture(list(["base"], [off], [nearest[1]]), {}, evidence);
  const ofEach = (1 - defaultCalibration.base) / 2;
  expect(weighed.request).toMatchObject({ base: 1 - ofEach, adapters: [{ centroidId: "c1", weight: ofEach }] });
});

const set = { static: { gain: null } };
const off = nearest.map((one, k) => ({ ...one, isOff: k !== 1 }));

test("a set with a static adapter has it as an expert beside the centroids, with the priors of those that are off", () => {
  const { experts, request } = automaticMixture(off, set, evidence);
  expect(idsOf({ experts })).toEqual(["c1", "static"]);
  const { base, fixed, adapters } = priorsOf(off.slice(0, 3), true, defaultCalibration);
  expect(request).toMatchObject({
    base,
    adapters: [
      { centroidId: "c1", weight: adapters[0] },
      { centroidId: "static", weight: fixed },
    ],
  });
  expect(mixtureSchema.parse(request)).toEqual(request);
});

test("a set with a static adapter serves it for a centroid that is off, once, and the base for an own adapter that is", () => {
  const fixed = staticCandidate(set)!;
  expect([servedFor(off[0], set), servedFor(off[1], set)]).toEqual([fixed, off[1]]);
  const mine = { ...own("legal", 0.1), isOff: true };
  expect([servedFor(mine, set), servedFor(off[0], {})]).toEqual([null, null]);
  const listed = listedMixture(list([off[0], 1], [fixed, 2], [off[1], 1], [mine, 4]), set, evidence);
  expect(listed.request).toEqual({
    base: 0.5,
    adapters: [
      { centroidId: "c1", weight: 0.125 },
      { centroidId: "static", weight: 0.375 },
    ],
  });
});

test("whatever is near, weights add up to 1 and keep to the contract", () => {
  // fast-check draws the ends of a range often, and sums are exact there; noBias prevents this.
  const between = (min: number, max: number) => fc.noBias(fc.double({ min, max, noNaN: true }));
  fc.assert(
    fc.property(
      fc.array(fc.record({ similarity: between(-1, 1), isOff: fc.boolean() }), { minLength: 1, maxLength: 6 }),
      fc.record({ base: between(0, 1), temper: between(0, 1), similarityScale: between(0, 1000) }),
      (centroids, changes) => {
        const ranked = centroids.toSorted((a, b) => b.similarity - a.similarity);
        const near = ranked.map(({ similarity, isOff }, k) => candidate(`c${k}`, similarity, { isOff }));
        const planned = automaticMixture(near, { evidence: { ...defaultCalibration, ...changes } }, { tokens: 64 });
        expect(totalOf(planned)).toBeCloseTo(1, 9);
        expect(mixtureSchema.parse(planned.request)).toEqual(planned.request);
      },
    ),
    { seed, numRuns: 3000 },
  );
});

test("whatever is listed, weights add up to 1 and keep to the contract", () => {
  const weight = fc.double({ min: 0, max: 1e6, noNaN: true });
  const entry = fc.record({ isBase: fc.boolean(), isOff: fc.boolean(), weight });
  fc.assert(
    fc.property(
      fc.array(entry, { minLength: 1, maxLength: 3 }),
      fc.boolean(),
      fc.integer({ min: 1, max: 1024 }),
      (entries, isFixed, tokens) => {
        fc.pre(!isFixed || entries.some(({ weight }) => weight > 1e-9));
        const listed = entries.map((one, k): Listed => {
          const expert = one.isBase && k === 0 ? null : { ...nearest[k], isOff: one.isOff };
          return { candidate: expert, weight: isFixed ? one.weight : null };
        });
        const planned = listedMixture(listed, {}, { tokens });
        expect(totalOf(planned)).toBeCloseTo(1, 9);
        mixtureSchema.parse(planned.request);
      },
    ),
    { seed, numRuns: 500 },
  );
});
