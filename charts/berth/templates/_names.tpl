{{- /* Labels of every object. */ -}}
{{- define "berth.labels" -}}
app.kubernetes.io/name: berth-controller
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: berth
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* Labels that find the controller's pods; a Deployment's selector never changes. */ -}}
{{- define "berth.selector" -}}
app.kubernetes.io/name: berth-controller
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* The user that the controller is to the API server. */ -}}
{{- define "berth.user" -}}
system:serviceaccount:{{ .Release.Namespace }}:berth-controller
{{- end -}}

{{- /* securityContext of each container. */ -}}
{{- define "berth.container" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* Users that delete what belongs to a deleted owner or namespace, as a list in CEL. */ -}}
{{- define "berth.collectors" -}}
['system:serviceaccount:kube-system:generic-garbage-collector', 'system:serviceaccount:kube-system:namespace-controller', 'system:kube-controller-manager']
{{- end -}}

{{- /* A ValidatingAdmissionPolicy's binding: refuse, everywhere or where the selector says. Takes the policy's name. */ -}}
{{- define "berth.deny" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "berth.labels" .root | nindent 4 }}
spec:
  policyName: {{ .name }}
  validationActions: [Deny]
{{- end -}}

{{/* The forges as the controller reads them: of Secrets the paths alone. */}}
{{- define "berth.forges" -}}
{{- $forges := list -}}
{{- range .Values.forges -}}
{{- $forge := pick . "name" "type" "url" "apiURL" "agents" "teams" "machineKeys" -}}
{{- if .token -}}{{- $_ := set $forge "tokenFile" (printf "/etc/berth/forges/%s/token" .name) -}}{{- end -}}
{{- if .feedbackToken -}}{{- $_ := set $forge "feedbackTokenFile" (printf "/etc/berth/forges/%s/feedback-token" .name) -}}{{- end -}}
{{- if .ca -}}{{- $_ := set $forge "caFile" (printf "/etc/berth/forges/%s/ca.crt" .name) -}}{{- end -}}
{{- $forges = append $forges $forge -}}
{{- end -}}
{{- toJson $forges -}}
{{- end }}

{{/* The model gateways as the controller reads them: of Secrets the paths alone. */}}
{{- define "berth.gateways" -}}
{{- $gateways := list -}}
{{- range .Values.gateways -}}
{{- $gateway := pick . "name" "url" "addresses" -}}
{{- $_ := set $gateway "adminKeyFile" (printf "/etc/berth/gateways/%s/key" .name) -}}
{{- if .ca -}}{{- $_ := set $gateway "caFile" (printf "/etc/berth/gateways/%s/ca.crt" .name) -}}{{- end -}}
{{- $gateways = append $gateways $gateway -}}
{{- end -}}
{{- toJson $gateways -}}
{{- end }}
