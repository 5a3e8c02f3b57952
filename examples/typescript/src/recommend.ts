/**
 * Recommendations for somebody who just looked at a few items.
 *
 *   npm start -- localhost:9001 318 296
 */
import { credentials } from "@grpc/grpc-js";

import { call, report } from "./call.js";
import { InterestServiceClient, RecommendRequest, type RecommendResponse } from "./generated/ebbtide/v1/interest.js";

async function main(address: string, itemIds: string[]): Promise<number> {
  // createSsl() in place of createInsecure() for a gateway with --tls-certificate.
  const client = new InterestServiceClient(address, credentials.createInsecure());
  const now = new Date();
  const request = RecommendRequest.fromPartial({
    now,
    current: itemIds.map((value) => ({ subject: { $case: "itemId", value }, time: now })),
    topN: 5,
  });
  try {
    const answer = await call<RecommendRequest, RecommendResponse>(client.recommend.bind(client), request);
    const { items, alphaUsed, eventsUsed } = answer;
    console.log(JSON.stringify({ items, alphaUsed, eventsUsed }));
    return 0;
  } catch (error) {
    report(error);
    return 1;
  } finally {
    client.close();
  }
}

const [address = "localhost:9001", ...itemIds] = process.argv.slice(2);
process.exitCode = await main(address, itemIds);
