"""LitServe with scikit-learn on an array, batched.

python litserve_array.py PORT MODEL.pkl
"""

import pickle
import sys
from pathlib import Path

import litserve
import numpy as np


class Classifier(litserve.LitAPI):
    def setup(self, device):
        self.model = pickle.loads(Path(sys.argv[2]).read_bytes())

    def decode_request(self, request):
        return request["features"]

    def batch(self, inputs):
        return np.array(inputs)

    def predict(self, batch):
        return self.model.predict_proba(batch)

    def unbatch(self, output):
        return output.tolist()

    def encode_response(self, output):
        return {"probabilities": output}


if __name__ == "__main__":
    server = litserve.LitServer(
        Classifier(max_batch_size=64, batch_timeout=0.001), accelerator="cpu", workers_per_device=1
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, log_level="warning",
        generate_client_file=False, access_log=False,
    )  # fmt: skip
