/**
 * Round trips between regions, in milliseconds. An approximation, not a measurement: 1.5 x the great-circle length of the
 * main cable routes (wnam-enam, enam-weur, enam-sam, weur-eeur, weur-me, weur-afr, me-apac, apac-oc, wnam-apac, wnam-oc)
 * between one large site a region, at 200 km a millisecond each way, + 5 ms inside a region. Only the order of the regions
 * and the rough size of a detour are used.
 */
import { type Region, regions } from "../platform/region.ts";

/** Rows and columns in the order of `regions`. */
const table = [
  /*          wnam enam  sam weur eeur apac   oc  afr   me */
  /* wnam */ [5, 63, 178, 161, 174, 210, 184, 291, 234],
  /* enam */ [63, 5, 120, 103, 117, 263, 242, 234, 176],
  /* sam  */ [178, 120, 5, 218, 231, 378, 357, 349, 291],
  /* weur */ [161, 103, 218, 5, 18, 165, 260, 135, 78],
  /* eeur */ [174, 117, 231, 18, 5, 178, 273, 149, 91],
  /* apac */ [210, 263, 378, 165, 178, 5, 100, 295, 92],
  /* oc   */ [184, 242, 357, 260, 273, 100, 5, 390, 187],
  /* afr  */ [291, 234, 349, 135, 149, 295, 390, 5, 208],
  /* me   */ [234, 176, 291, 78, 91, 92, 187, 208, 5],
];

const insideMs = 5;

/** Without a region it is as if both were in the same one. */
export function roundTripMs(from: Region | null, to: Region | null): number {
  return from === null || to === null ? insideMs : table[regions.indexOf(from)][regions.indexOf(to)];
}
