"""The KServe SDK with scikit-learn on an array, protocol V1.

python kserve_array.py PORT MODEL.pkl
"""

import pickle
import sys
from pathlib import Path

import kserve
import numpy as np


class Classifier(kserve.Model):
    def load(self):
        self.model = pickle.loads(Path(sys.argv[2]).read_bytes())
        self.ready = True
        return self.ready

    def predict(self, payload, headers=None, response_headers=None):
        rows = np.array(payload["instances"])
        return {"predictions": self.model.predict_proba(rows).tolist()}


if __name__ == "__main__":
    found = Classifier("bench")
    found.load()
    server = kserve.ModelServer(
        http_port=int(sys.argv[1]), enable_grpc=False, workers=1, enable_latency_logging=False
    )
    server.start([found])
