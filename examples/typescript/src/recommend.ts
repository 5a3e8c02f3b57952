/**
 * Recommendations for somebody who just looked at a few items.
 *
 *   npm start -- localhost:9001 318 296
 */
import { Metadata, credentials, status, type ServiceError } from "@grpc/grpc-js";

import { InterestServiceClient, RecommendRequest, type RecommendResponse } from "./generated/ebbtide/v1/interest.js";

const DEADLINE_MS = 5_000;

/** One call with a deadline, as a promise. */
function recommend(client: InterestServiceClient, request: RecommendRequest): Promise<RecommendResponse> {
  return new Promise((resolve, reject) => {
    client.recommend(request, new Metadata(), { deadline: Date.now() + DEADLINE_MS }, (error, response) =>
      error ? reject(error) : resolve(response),
    );
  });
}

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
    const { items, alphaUsed, eventsUsed } = await recommend(client, request);
    console.log(JSON.stringify({ items, alphaUsed, eventsUsed }));
    return 0;
  } catch (error) {
    const { code, details } = error as ServiceError;
    console.error(`${status[code]}: ${details}`);
    return 1;
  } finally {
    client.close();
  }
}

const [address = "localhost:9001", ...itemIds] = process.argv.slice(2);
process.exitCode = await main(address, itemIds);
